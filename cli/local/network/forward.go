// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
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

// Targets says where a connection may go, whenever one comes.
type Targets func() []netip.AddrPort

// To is one machine's port.
func To(target netip.AddrPort) Targets {
	return func() []netip.AddrPort { return []netip.AddrPort{target} }
}

// Forward brings connections to machines: from a port of this computer's loopback, or
// from one of the gateway.
type Forward struct {
	listener net.Listener
	port     uint16
	targets  Targets
	network  *Network

	ctx    context.Context
	cancel context.CancelFunc
	conns  sync.WaitGroup
	slots  chan struct{}

	mu      sync.Mutex
	carried map[net.Conn]netip.Addr // to machines
}

// Forward listens on a port of 127.0.0.1, and connects who comes to the first of the
// targets that takes the connection. Port 0 means any. If the port is in use the error
// is a *PortError.
func (n *Network) Forward(port uint16, to Targets) (*Forward, error) {
	l, err := listenLoopback(port)
	if err != nil {
		return nil, err
	}
	return n.forward(l, uint16(l.Addr().(*net.TCPAddr).Port), to)
}

// ForwardGateway does the same for machines that connect to a port of the gateway.
func (n *Network) ForwardGateway(port uint16, to Targets) (*Forward, error) {
	l, err := n.Listen(port)
	if err != nil {
		return nil, err
	}
	return n.forward(l, port, to)
}

func (n *Network) forward(l net.Listener, port uint16, to Targets) (*Forward, error) {
	f := &Forward{
		listener: l, port: port, targets: to, network: n, slots: make(chan struct{}, maxForwarded), carried: map[net.Conn]netip.Addr{},
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		f.end()
		return nil, fmt.Errorf("network: forward port %d: %w", port, net.ErrClosed)
	}
	n.forwards[f] = true
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

// Port is the port that is listened on.
func (f *Forward) Port() uint16 { return f.port }

// Close ends the forward and its connections.
func (f *Forward) Close() {
	f.network.mu.Lock()
	delete(f.network.forwards, f)
	f.network.mu.Unlock()
	f.end()
}

func (f *Forward) end() {
	f.cancel()
	f.listener.Close()
	f.conns.Wait()
}

// cut ends the connections to a machine that is gone: it cannot say so itself.
func (f *Forward) cut(machine netip.Addr) {
	f.mu.Lock()
	carried := maps.Clone(f.carried)
	f.mu.Unlock()
	for conn, to := range carried {
		if to == machine {
			conn.Close()
		}
	}
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

// carry connects one connection to a machine until both directions have ended.
func (f *Forward) carry(conn net.Conn) {
	defer conn.Close()
	ctx, cancel := context.WithTimeout(f.ctx, forwardDial)
	defer cancel()
	there, to, err := dialAny(ctx, f.network.Dial, f.targets())
	if err != nil {
		return
	}
	defer there.Close()
	f.mu.Lock()
	f.carried[there] = to.Addr()
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.carried, there)
		f.mu.Unlock()
	}()
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
