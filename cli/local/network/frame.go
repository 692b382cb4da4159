// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of a frame in bytes: an Ethernet header, and the largest IP packet that
// an adapter which splits packets itself may hand over, behind one.
const (
	minFrame = 14
	maxFrame = 14 + 65535
	// lengthSize is that of the length before a frame.
	lengthSize = 4
)

// Bounds of what waits for a machine. The switch serves all machines in turn: one that
// takes no frames may hold it up for a moment, once.
const (
	maxWaiting = 256 // frames
	waitFor    = time.Second
)

// frameConn lets only frames through that the switch can look at. The switch takes
// a length at its word and reads headers without asking whether they are there.
type frameConn struct {
	net.Conn
	pending []byte       // a frame with its length, checked and not yet read
	observe func([]byte) // if not nil, sees every frame of the machine, and of the gateway to it

	mu     sync.Mutex
	source net.HardwareAddr // of the machine's first frame

	waiting chan []byte
	stuck   atomic.Bool // the machine takes no frames
	ended   chan struct{}
	end     sync.Once
}

// newFrameConn begins to carry frames. Close ends it.
func newFrameConn(conn net.Conn) *frameConn {
	c := &frameConn{Conn: conn, waiting: make(chan []byte, maxWaiting), ended: make(chan struct{})}
	go c.send()
	return c
}

// Close ends the connection.
func (c *frameConn) Close() error {
	c.end.Do(func() { close(c.ended) })
	return c.Conn.Close()
}

// Write takes one frame with its length. It is sent, or dropped if the machine takes
// none, as on a real network.
func (c *frameConn) Write(p []byte) (int, error) {
	frame := append([]byte(nil), p...) // the caller's again once Write returns
	if c.observe != nil && len(frame) >= lengthSize+minFrame && sourceOf(frame[lengthSize:]).String() == gatewayMAC {
		c.observe(frame[lengthSize:])
	}
	select {
	case c.waiting <- frame:
		return len(p), nil
	case <-c.ended:
		return 0, net.ErrClosed
	default:
	}
	if c.stuck.Load() {
		return len(p), nil
	}
	patience := time.NewTimer(waitFor)
	defer patience.Stop()
	select {
	case c.waiting <- frame:
	case <-c.ended:
		return 0, net.ErrClosed
	case <-patience.C:
		c.stuck.Store(true)
	}
	return len(p), nil
}

func (c *frameConn) send() {
	for {
		select {
		case frame := <-c.waiting:
			if _, err := c.Conn.Write(frame); err != nil {
				c.Close()
				return
			}
			c.stuck.Store(false)
		case <-c.ended:
			return
		}
	}
}

// Read returns bytes of checked frames. A frame that is too short is left out; one
// that is too long ends the connection, since nobody knows where the next begins.
func (c *frameConn) Read(p []byte) (int, error) {
	for len(c.pending) == 0 {
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.pending)
	c.pending = c.pending[n:]
	return n, nil
}

func (c *frameConn) fill() error {
	var length [lengthSize]byte
	if _, err := io.ReadFull(c.Conn, length[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(length[:])
	if size > maxFrame {
		return fmt.Errorf("network: a frame of %d bytes, at most %d", size, maxFrame)
	}
	frame := make([]byte, len(length)+int(size))
	copy(frame, length[:])
	if _, err := io.ReadFull(c.Conn, frame[len(length):]); err != nil {
		return err
	}
	if size >= minFrame {
		c.pending = frame
		c.see(frame[len(length):])
	}
	return nil
}

// see notes whose frames these are, and shows them.
func (c *frameConn) see(frame []byte) {
	c.mu.Lock()
	if c.source == nil {
		c.source = sourceOf(frame)
	}
	c.mu.Unlock()
	if c.observe != nil {
		c.observe(frame)
	}
}

// owner is the hardware address that the machine sends from, empty if it sent nothing.
func (c *frameConn) owner() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.source.String()
}

// sourceOf is where a frame comes from.
func sourceOf(frame []byte) net.HardwareAddr { return net.HardwareAddr(frame[6:12]) }
