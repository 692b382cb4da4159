// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	consoleTail = 256 << 10
	// quitPatience is how long QEMU gets to end when asked, before it is killed.
	quitPatience = 5 * time.Second
	// startPatience is how long QEMU gets to answer on its monitor.
	startPatience = 30 * time.Second
)

// An Exit says how a machine ended.
type Exit struct {
	// Reason is QEMU's word: "guest-shutdown", "guest-reset", "guest-panic",
	// "host-qmp-quit", ...; empty if QEMU was killed or crashed.
	Reason string
	// Err is set when QEMU did not end in an orderly way.
	Err error
}

// A Machine is a virtual machine that was started. Its methods may be called
// concurrently.
type Machine struct {
	name    string
	accel   Acceleration
	started time.Time

	qemu, tpm *process
	monitor   *monitor
	console   *ring
	input     io.Writer
	ports     map[string]*port

	cleanups []func() error // in reverse order of need
	stopOnce sync.Once
	done     chan struct{}
	exit     Exit
}

// Start starts a machine. It runs until it ends by itself, [Machine.Stop] is
// called, or ctx ends, which kills it. In each case everything that it consisted
// of is gone when [Machine.Wait] returns.
func Start(ctx context.Context, c Config) (*Machine, error) {
	c, t, accel, err := c.prepare(ctx)
	if err != nil {
		return nil, err
	}
	m := &Machine{
		name:    c.Name,
		accel:   accel,
		console: newRing(consoleTail),
		ports:   make(map[string]*port),
		done:    make(chan struct{}),
	}
	if err := m.start(ctx, c, t); err != nil {
		m.tearDown()
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	go m.supervise(ctx)
	return m, nil
}

// prepare completes the config and finds out what this computer has to run it.
func (c Config) prepare(ctx context.Context) (Config, tools, Acceleration, error) {
	c, err := c.withDefaults()
	if err != nil {
		return c, tools{}, "", err
	}
	if c, err = c.absolute(); err != nil {
		return c, tools{}, "", err
	}
	if err := Preflight(c); err != nil {
		return c, tools{}, "", err
	}
	t, err := findTools(c)
	if err != nil {
		return c, tools{}, "", err
	}
	accel, err := c.accelerate(ctx, t)
	return c, t, accel, err
}

func (m *Machine) start(ctx context.Context, c Config, t tools) error {
	keep, scratch, err := m.scratchFolder()
	if err != nil {
		return err
	}
	state := c.StateDir
	if state == "" {
		state = filepath.Join(scratch, "state")
	}
	if err := m.prepareState(ctx, c, t, state); err != nil {
		return err
	}
	if c, err = c.withStateDisk(state); err != nil {
		return err
	}
	w, err := m.wire(c)
	if err != nil {
		return err
	}
	defer w.closeInherited()
	if !c.TPM.Absent {
		if m.tpm, err = startTPM(t, tpmDir(state), w.tpmControl, keep.hold); err != nil {
			return err
		}
	}
	args := append(c.hardware(m.accel, w.tpmFD), pflash(c.Firmware.Code, varsFile(state))...)
	args = append(args, w.args...)
	// What breaks out of the guest finds a process that can start no other.
	args = append(args, "-no-reboot", "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	args = append(args, c.ExtraArgs...)
	w.files.add(keep.hold)
	m.started = time.Now()
	if m.qemu, err = startProcess(t.qemu, args, w.files, nil); err != nil {
		return err
	}
	w.closeInherited() // so that a QEMU that dies at once is seen on its channels
	m.connect(c, w)

	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	if err := m.monitor.negotiate(ctx); err != nil {
		if errors.Is(err, errMonitorClosed) {
			<-m.qemu.done
			return m.qemu.describe(errors.New("QEMU ended at once"))
		}
		return m.qemu.describe(err)
	}
	return nil
}

// scratchFolder makes the machine's temporary folder and its keeper.
func (m *Machine) scratchFolder() (*keeper, string, error) {
	dir, err := os.MkdirTemp("", "constellation-machine-")
	if err != nil {
		return nil, "", fmt.Errorf("make a temporary folder: %w", err)
	}
	keep, err := startKeeper(dir)
	if err != nil {
		os.RemoveAll(dir)
		return nil, "", err
	}
	m.cleanups = append(m.cleanups, keep.release)
	return keep, dir, nil
}

func varsFile(state string) string { return filepath.Join(state, "vars.fd") }
func tpmDir(state string) string   { return filepath.Join(state, "tpm") }

// prepareState sees to it that the state folder holds a variable store and a TPM,
// and belongs to this machine alone.
func (m *Machine) prepareState(ctx context.Context, c Config, t tools, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the state folder: %w", err)
	}
	unlock, err := lockFile(filepath.Join(dir, "lock"), false)
	if err != nil {
		return fmt.Errorf("is the machine running already? %w", err)
	}
	m.cleanups = append(m.cleanups, func() error { unlock(); return nil })
	if err := copyOnce(c.Firmware.Vars, varsFile(dir)); err != nil {
		return fmt.Errorf("copy the firmware's variable store: %w", err)
	}
	if c.TPM.Absent {
		return nil
	}
	return c.manufacture(ctx, t, tpmDir(dir))
}

// copyOnce copies a file, unless the target exists. The target appears whole.
func copyOnce(from, to string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(to+".new", to)
}

// connect begins to serve our ends of the channels.
func (m *Machine) connect(c Config, w *wiring) {
	m.monitor = newMonitor(w.qmp)
	m.input = w.console
	var sink io.Writer = m.console
	if c.Console != nil {
		sink = io.MultiWriter(m.console, c.Console)
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(sink, w.console)
		_, _ = io.Copy(io.Discard, w.console) // if the writer failed
	}()
	// The last words of a guest are what one wants to see of it: they are read to
	// the end before the connection is closed.
	m.cleanups = append(m.cleanups, func() error { <-copied; return nil })
	for name, conn := range w.ports {
		m.ports[name] = newPort(conn)
	}
	if w.network != nil {
		m.attach(c.Network, w.network)
	}
}

// attach has the network serve the adapter until the machine is torn down.
func (m *Machine) attach(n Network, conn net.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	detached := make(chan struct{})
	go func() {
		defer close(detached)
		n.Attach(ctx, conn)
	}()
	m.cleanups = append(m.cleanups, func() error {
		cancel()
		conn.Close()
		<-detached
		return nil
	})
}

// supervise waits for the end of QEMU and clears away what is left.
func (m *Machine) supervise(ctx context.Context) {
	select {
	case <-m.qemu.done:
	case <-ctx.Done():
		m.qemu.kill()
	}
	<-m.monitor.closed
	m.exit.Reason = m.monitor.shutdownReason()
	if err := m.qemu.err; err != nil && ctx.Err() == nil {
		m.exit.Err = m.qemu.describe(fmt.Errorf("QEMU: %w", err))
	}
	m.tearDown()
	close(m.done)
}

// tearDown ends whatever was started, in reverse order.
func (m *Machine) tearDown() {
	if m.qemu != nil {
		m.qemu.kill()
	}
	if m.tpm != nil {
		// swtpm ends by itself when QEMU is gone, having written its state.
		select {
		case <-m.tpm.done:
		case <-time.After(quitPatience):
			m.tpm.kill()
		}
	}
	for i := len(m.cleanups) - 1; i >= 0; i-- {
		if err := m.cleanups[i](); err != nil && m.exit.Err == nil {
			m.exit.Err = err
		}
	}
	m.cleanups = nil
}

// Stop ends the machine without asking the guest, as if its power were cut, and
// waits until everything is gone. It may be called several times.
func (m *Machine) Stop() {
	m.stopOnce.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), quitPatience)
		defer cancel()
		_ = m.monitor.run(ctx, "quit", nil, nil)
		select {
		case <-m.qemu.done:
		case <-ctx.Done():
			m.qemu.kill()
		}
	})
	<-m.done
}

// Wait waits for the end of the machine.
func (m *Machine) Wait(ctx context.Context) (Exit, error) {
	select {
	case <-m.done:
		return m.exit, nil
	case <-ctx.Done():
		return Exit{}, ctx.Err()
	}
}

// Done is closed when the machine and everything that it consisted of is gone.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Line returns the next line that the guest wrote to the port of that name.
func (m *Machine) Line(ctx context.Context, name string) ([]byte, error) {
	p := m.ports[name]
	if p == nil {
		return nil, fmt.Errorf("machine %s has no port %q", m.name, name)
	}
	line, err := p.line(ctx)
	if err != nil {
		return nil, fmt.Errorf("await a line on port %s: %w", name, err)
	}
	return line, nil
}

// Send writes a line to the guest on the port of that name. It waits until the guest
// has made room for it.
func (m *Machine) Send(ctx context.Context, name string, line []byte) error {
	p := m.ports[name]
	if p == nil {
		return fmt.Errorf("machine %s has no port %q", m.name, name)
	}
	if err := p.send(ctx, append(slices.Clone(line), '\n')); err != nil {
		return fmt.Errorf("write to port %s: %w", name, err)
	}
	return nil
}

// ConsoleTail returns the end of what the serial console showed.
func (m *Machine) ConsoleTail() []byte { return m.console.Tail() }

// ConsoleInput is what the serial console's keyboard is connected to.
func (m *Machine) ConsoleInput() io.Writer { return m.input }

// Acceleration says how the guest's processor is run.
func (m *Machine) Acceleration() Acceleration { return m.accel }

// Started is when QEMU was started: the machine's power-on.
func (m *Machine) Started() time.Time { return m.started }
