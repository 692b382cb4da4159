// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// forwardDial bounds how long a machine may take to accept a forwarded connection.
const forwardDial = 30 * time.Second

// maxForwarded is how many connections a forward carries at once.
const maxForwarded = 1024

// PortError says that a port of this computer is in use.
type PortError struct {
	Port uint16
	// Free is a port near it that was free a moment ago; 0 if none was found.
	Free uint16
}

// Error implements error.
func (e *PortError) Error() string {
	if e.Free == 0 {
		return fmt.Sprintf("port %d of this computer is in use, and so are those behind it", e.Port)
	}
	return fmt.Sprintf("port %d of this computer is in use: end what uses it, or choose another, such as %d, which is free", e.Port, e.Free)
}

// Forward brings connections from a port of this computer's loopback to a machine.
type Forward struct {
	listener net.Listener
	to       netip.AddrPort
	network  *Network

	ctx    context.Context
	cancel context.CancelFunc
	conns  sync.WaitGroup
	slots  chan struct{}
}

// Forward listens on a port of 127.0.0.1, and connects who comes to a machine's port.
// Port 0 means any. If the port is in use the error is a *PortError.
func (n *Network) Forward(port uint16, to netip.AddrPort) (*Forward, error) {
	l, err := listenLoopback(port)
	if err != nil {
		return nil, err
	}
	f := &Forward{listener: l, to: to, network: n, slots: make(chan struct{}, maxForwarded)}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		f.Close()
		return nil, fmt.Errorf("network: forward to %s: %w", to, net.ErrClosed)
	}
	n.forwards = append(n.forwards, f)
	n.services.Go(f.serve)
	return f, nil
}

// CheckPort says whether a forward could listen on a port of this computer; if not the
// error is a *PortError.
func CheckPort(port uint16) error {
	l, err := listenLoopback(port)
	if err != nil {
		return err
	}
	return l.Close()
}

func listenLoopback(port uint16) (net.Listener, error) {
	l, err := net.Listen("tcp4", loopback(port))
	if !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	busy := &PortError{Port: port}
	for next := uint32(port) + 1; next <= uint32(port)+100 && next <= 65535; next++ {
		if l, err := net.Listen("tcp4", loopback(uint16(next))); err == nil {
			l.Close()
			busy.Free = uint16(next)
			break
		}
	}
	return nil, busy
}

func loopback(port uint16) string { return "127.0.0.1:" + strconv.Itoa(int(port)) }

// Port is the port of this computer.
func (f *Forward) Port() uint16 { return uint16(f.listener.Addr().(*net.TCPAddr).Port) }

// Close ends the forward and its connections.
func (f *Forward) Close() {
	f.cancel()
	f.listener.Close()
	f.conns.Wait()
}

func (f *Forward) serve() {
	defer f.cancel()
	for {
		conn, err := f.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			select { // out of descriptors, for instance
			case <-f.ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
				continue
			}
		}
		select {
		case f.slots <- struct{}{}:
			f.conns.Go(func() {
				defer func() { <-f.slots }()
				f.carry(conn)
			})
		default:
			conn.Close()
		}
	}
}

// carry connects one connection to the machine until both directions have ended.
func (f *Forward) carry(conn net.Conn) {
	defer conn.Close()
	ctx, cancel := context.WithTimeout(f.ctx, forwardDial)
	defer cancel()
	there, err := f.network.Dial(ctx, f.to)
	if err != nil {
		return
	}
	defer there.Close()
	stop := context.AfterFunc(f.ctx, func() {
		conn.Close()
		there.Close()
	})
	defer stop()
	var back sync.WaitGroup
	back.Go(func() { pass(conn, there) })
	pass(there, conn)
	back.Wait()
}

// pass copies one direction, and tells the receiver when it ends. If it ends with an
// error, so does the other direction.
func pass(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		err = half.CloseWrite()
	}
	if err != nil {
		to.Close()
		from.Close()
	}
}
