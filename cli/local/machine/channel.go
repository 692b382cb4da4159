// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Limits of what a guest may send on a port.
const (
	maxPortLine  = 4 << 20 // bytes
	maxPortLines = 64      // lines waiting to be read
)

// socketPair returns a connected pair: our end, and the end that a child inherits.
func socketPair(name string) (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair for %s: %w", name, err)
	}
	ours := os.NewFile(uintptr(fds[0]), name)
	theirs := os.NewFile(uintptr(fds[1]), name)
	defer ours.Close() // FileConn duplicates
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("make a socket pair for %s: %w", name, err)
	}
	return conn, theirs, nil
}

// A port receives the lines that the guest writes to one virtio-serial port, and
// sends what the guest shall read there.
type port struct {
	lines chan []byte
	err   error // why lines was closed, valid once it is

	sending sync.Mutex
	conn    net.Conn
}

func newPort(conn net.Conn) *port {
	p := &port{lines: make(chan []byte, maxPortLines), conn: conn}
	go p.receive(conn)
	return p
}

func (p *port) send(ctx context.Context, data []byte) error {
	p.sending.Lock()
	defer p.sending.Unlock()
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = p.conn.SetWriteDeadline(time.Unix(1, 0)) // else the write takes as long as it takes
	})
	defer func() {
		if !stop() {
			<-interrupted
			_ = p.conn.SetWriteDeadline(time.Time{})
		}
	}()
	if _, err := p.conn.Write(data); err != nil {
		return errors.Join(ctx.Err(), err)
	}
	return nil
}

func (p *port) receive(conn io.Reader) {
	defer close(p.lines)
	s := bufio.NewScanner(conn)
	s.Buffer(make([]byte, 0, 64<<10), maxPortLine)
	for s.Scan() {
		select {
		case p.lines <- append([]byte(nil), s.Bytes()...):
		default:
			p.err = fmt.Errorf("the guest sent more than %d lines that nobody read", maxPortLines)
			return
		}
	}
	switch err := s.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		p.err = fmt.Errorf("the guest sent a line of more than %d bytes", maxPortLine)
	default:
		p.err = errMachineEnded
	}
}

// errMachineEnded says that no more lines will come.
var errMachineEnded = errors.New("the machine has ended")

func (p *port) line(ctx context.Context) ([]byte, error) {
	select {
	case line, ok := <-p.lines:
		if !ok {
			return nil, p.err
		}
		return line, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// filePair returns a connected pair of which children inherit both ends.
func filePair(name string) (*os.File, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair for %s: %w", name, err)
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name), nil
}
