// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"fmt"
	"net"
	"os"
)

// wiring holds the channels between this process, QEMU and swtpm while they are
// being set up.
type wiring struct {
	console, qmp net.Conn
	network      net.Conn // nil without one
	ports        map[string]net.Conn
	tpmControl   *os.File
	tpmFD        int
	files        descriptors // what QEMU inherits
	own          []*os.File  // files to close here once inherited
	args         []string    // arguments that name the channels
}

func (m *Machine) wire(c Config) (*wiring, error) {
	w := &wiring{ports: make(map[string]net.Conn)}
	open := func(name string) (net.Conn, int, error) {
		conn, fd, err := w.channel(name)
		if err == nil {
			m.cleanups = append(m.cleanups, func() error { conn.Close(); return nil })
		}
		return conn, fd, err
	}
	var fd int
	var err error
	if w.console, fd, err = open("console"); err != nil {
		return nil, err
	}
	w.args = append(w.args, "-chardev", fmt.Sprintf("socket,id=console,fd=%d", fd), "-serial", "chardev:console")
	if w.qmp, fd, err = open("monitor"); err != nil {
		return nil, err
	}
	w.args = append(w.args, "-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", fd), "-mon", "chardev=monitor,mode=control")
	for i, name := range c.Ports {
		if w.ports[name], fd, err = open(name); err != nil {
			return nil, err
		}
		w.args = append(w.args, "-chardev", fmt.Sprintf("socket,id=port%d,fd=%d", i, fd),
			"-device", fmt.Sprintf("virtserialport,bus=ports.0,nr=%d,chardev=port%d,name=%s", i+1, i, name))
	}
	if c.Network != nil {
		if w.network, fd, err = open(netdev); err != nil {
			return nil, err
		}
		w.args = append(w.args, "-netdev", fmt.Sprintf("stream,id=%s,server=off,addr.type=fd,addr.str=%d", netdev, fd))
	}
	if !c.TPM.Absent {
		if err := w.wireTPM(); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// channel makes one channel: our end, and the descriptor of QEMU's.
func (w *wiring) channel(name string) (net.Conn, int, error) {
	conn, file, err := socketPair(name)
	if err != nil {
		return nil, 0, err
	}
	w.own = append(w.own, file)
	return conn, w.files.add(file), nil
}

func (w *wiring) wireTPM() error {
	qemuEnd, tpmEnd, err := filePair("tpm")
	if err != nil {
		return err
	}
	w.own = append(w.own, qemuEnd, tpmEnd)
	w.tpmControl = tpmEnd
	w.tpmFD = w.files.add(qemuEnd)
	return nil
}

func (w *wiring) closeInherited() {
	for _, f := range w.own {
		f.Close()
	}
	w.own = nil
}
