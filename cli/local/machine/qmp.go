// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// A monitor speaks the QEMU Machine Protocol on one connection
// (QEMU's docs/interop/qmp-spec.rst). One command is under way at a time.
type monitor struct {
	conn    io.ReadWriteCloser
	replies chan qmpMessage
	closed  chan struct{}

	command sync.Mutex // held while a command is under way

	mu       sync.Mutex
	shutdown string // the reason QEMU gave for its end
}

type qmpMessage struct {
	Greeting *json.RawMessage `json:"QMP"`
	Return   *json.RawMessage `json:"return"`
	Error    *struct {
		Class       string `json:"class"`
		Description string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
	Data  struct {
		Reason string `json:"reason"`
	} `json:"data"`
}

func newMonitor(conn io.ReadWriteCloser) *monitor {
	m := &monitor{conn: conn, replies: make(chan qmpMessage, 1), closed: make(chan struct{})}
	go m.receive()
	return m
}

func (m *monitor) receive() {
	defer close(m.closed)
	d := json.NewDecoder(m.conn)
	for {
		var msg qmpMessage
		if err := d.Decode(&msg); err != nil {
			return
		}
		switch {
		case msg.Event == "SHUTDOWN":
			m.mu.Lock()
			m.shutdown = msg.Data.Reason
			m.mu.Unlock()
		case msg.Event != "":
		default:
			select {
			case m.replies <- msg:
			default: // nobody asked: a reply to a command that was given up
			}
		}
	}
}

// shutdownReason is QEMU's own word for why it ended, for instance
// "guest-reset"; empty if it gave none.
func (m *monitor) shutdownReason() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.shutdown
}

var errMonitorClosed = errors.New("QEMU closed its monitor")

func (m *monitor) await(ctx context.Context) (qmpMessage, error) {
	select {
	case msg := <-m.replies:
		return msg, nil
	case <-m.closed:
		select {
		case msg := <-m.replies:
			return msg, nil
		default:
			return qmpMessage{}, errMonitorClosed
		}
	case <-ctx.Done():
		return qmpMessage{}, ctx.Err()
	}
}

// negotiate takes QEMU's greeting and enters command mode.
func (m *monitor) negotiate(ctx context.Context) error {
	msg, err := m.await(ctx)
	if err != nil {
		return fmt.Errorf("await QEMU's greeting: %w", err)
	}
	if msg.Greeting == nil {
		return errors.New("await QEMU's greeting: got something else")
	}
	return m.run(ctx, "qmp_capabilities", nil, nil)
}

// run executes a command; out, if not nil, receives what it returns.
func (m *monitor) run(ctx context.Context, command string, arguments map[string]any, out any) error {
	m.command.Lock()
	defer m.command.Unlock()
	message := map[string]any{"execute": command}
	if arguments != nil {
		message["arguments"] = arguments
	}
	request, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("encode %s: %w", command, err)
	}
	if _, err := m.conn.Write(append(request, '\n')); err != nil {
		return fmt.Errorf("send %s to QEMU: %w", command, err)
	}
	msg, err := m.await(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("await QEMU's reply to %s: %w", command, err)
	case msg.Error != nil:
		return fmt.Errorf("QEMU refused %s: %s", command, msg.Error.Description)
	case msg.Return == nil:
		return fmt.Errorf("QEMU's reply to %s is neither result nor error", command)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(*msg.Return, out); err != nil {
		return fmt.Errorf("decode QEMU's reply to %s: %w", command, err)
	}
	return nil
}

// traffic is how much the guest has read from its disks and written to them, in bytes.
func (m *monitor) traffic(ctx context.Context) (int64, error) {
	var stats []struct {
		Stats struct {
			Read    int64 `json:"rd_bytes"`
			Written int64 `json:"wr_bytes"`
		} `json:"stats"`
	}
	if err := m.run(ctx, "query-blockstats", nil, &stats); err != nil {
		return 0, err
	}
	var total int64
	for _, s := range stats {
		total += s.Stats.Read + s.Stats.Written
	}
	return total, nil
}
