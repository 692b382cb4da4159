// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
)

// Bounds of a frame in bytes: an Ethernet header, and the largest IP packet that
// an adapter which splits packets itself may hand over, behind one.
const (
	minFrame = 14
	maxFrame = 14 + 65535
)

// frameConn lets only frames through that the switch can look at. The switch takes
// a length at its word and reads headers without asking whether they are there.
type frameConn struct {
	net.Conn
	pending []byte // a frame with its length, checked and not yet read
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
	var length [4]byte
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
	}
	return nil
}
