// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// maxCaptured is how many frames may wait for somebody who captures them.
const maxCaptured = 8192

const recordHeader = 16 // bytes before each frame

// ErrCaptureTooSlow ends a capture: one with holes in it would prove nothing.
var ErrCaptureTooSlow = errors.New("network: frames come faster than they are taken")

// Capture writes every frame on the network from now on to w, as a pcap file
// (draft-ietf-opsawg-pcap), until ctx is done, which is no error. No frame is missed any
// more once the first bytes are written.
func (n *Network) Capture(ctx context.Context, w io.Writer) error {
	c, err := n.captures.begin()
	if err != nil {
		return err
	}
	defer n.captures.forget(c)
	if _, err := w.Write(captureHeader()); err != nil {
		return err
	}
	for {
		select {
		case record := <-c.frames:
			if _, err := w.Write(record); err != nil {
				return err
			}
		case <-c.ended:
			return c.why
		case <-ctx.Done():
			return nil
		}
	}
}

// captureHeader is a pcap file's: magic number for microseconds, version 2.4, no time
// zone, frames of any size, Ethernet.
func captureHeader() []byte {
	h := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	h = binary.LittleEndian.AppendUint16(h, 2)
	h = binary.LittleEndian.AppendUint16(h, 4)
	h = append(h, make([]byte, 8)...)
	h = binary.LittleEndian.AppendUint32(h, maxFrame)
	return binary.LittleEndian.AppendUint32(h, 1)
}

// captures are those who capture. Frames are shown to them wherever the switch hands one
// on, so this lock is the last that is taken.
type captures struct {
	mu     sync.Mutex
	all    map[*capture]bool
	closed bool
}

// capture is somebody who captures.
type capture struct {
	frames chan []byte
	once   sync.Once
	ended  chan struct{}
	why    error
}

func (c *capture) end(why error) {
	c.once.Do(func() {
		c.why = why
		close(c.ended)
	})
}

func (cs *captures) begin() (*capture, error) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.closed {
		return nil, fmt.Errorf("network: capture: %w", net.ErrClosed)
	}
	c := &capture{frames: make(chan []byte, maxCaptured), ended: make(chan struct{})}
	if cs.all == nil {
		cs.all = map[*capture]bool{}
	}
	cs.all[c] = true
	return c, nil
}

func (cs *captures) forget(c *capture) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.all, c)
}

// close ends every capture.
func (cs *captures) close() {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.closed = true
	for c := range cs.all {
		c.end(net.ErrClosed)
	}
}

// add shows a frame.
func (cs *captures) add(frame []byte) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if len(cs.all) == 0 {
		return
	}
	now := time.Now()
	record := binary.LittleEndian.AppendUint32(make([]byte, 0, recordHeader+len(frame)), uint32(now.Unix()))
	record = binary.LittleEndian.AppendUint32(record, uint32(now.Nanosecond()/1000))
	record = binary.LittleEndian.AppendUint32(record, uint32(len(frame))) // captured
	record = binary.LittleEndian.AppendUint32(record, uint32(len(frame))) // sent
	record = append(record, frame...)
	for c := range cs.all {
		select {
		case c.frames <- record:
		default:
			c.end(ErrCaptureTooSlow)
		}
	}
}
