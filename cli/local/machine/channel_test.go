// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPortLines(t *testing.T) {
	tests := map[string]struct {
		sent string
		want []string
		end  string // in the error after the last line
	}{
		"lines":           {"one\ntwo\n", []string{"one", "two"}, "has ended"},
		"last unfinished": {"one\ntw", []string{"one", "tw"}, "has ended"},
		"nothing":         {"", nil, "has ended"},
		"endless line":    {strings.Repeat("x", maxPortLine+1), nil, "more than 4194304 bytes"},
		"unread lines":    {strings.Repeat("x\n", maxPortLines+1), nil, "nobody read"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := &port{lines: make(chan []byte, maxPortLines)}
			p.receive(strings.NewReader(tc.sent))
			var got []string
			var err error
			for err == nil {
				var line []byte
				if line, err = p.line(t.Context()); err == nil && tc.want != nil {
					got = append(got, string(line))
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			if !strings.Contains(err.Error(), tc.end) {
				t.Errorf("ends with %q, want %q in it", err, tc.end)
			}
		})
	}
}

func TestPortLineHonoursItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := &port{lines: make(chan []byte)}
	if _, err := p.line(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// answer plays QEMU on a monitor: it greets and answers each command with the
// next reply.
func answer(t *testing.T, conn net.Conn, replies ...string) {
	t.Helper()
	go func() {
		defer conn.Close()
		if _, err := io.WriteString(conn, `{"QMP":{"version":{}}}`+"\n"); err != nil {
			return
		}
		d := json.NewDecoder(conn)
		for _, reply := range replies {
			var command map[string]any
			if d.Decode(&command) != nil {
				return
			}
			if _, err := io.WriteString(conn, reply+"\n"); err != nil {
				return
			}
		}
	}()
}

func TestMonitor(t *testing.T) {
	ours, qemus := net.Pipe()
	answer(t, qemus,
		`{"return":{}}`,
		`{"event":"RTC_CHANGE","data":{}}`+"\n"+`{"return":[{"stats":{"rd_bytes":5}},{"stats":{"rd_bytes":7,"wr_bytes":3}}]}`,
		`{"error":{"class":"GenericError","desc":"no such thing"}}`,
		`{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-reset"}}`,
	)
	m := newMonitor(ours)
	defer ours.Close()
	if err := m.negotiate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := m.traffic(t.Context()); err != nil || n != 15 {
		t.Errorf("bytes read and written: %d, %v, want 15", n, err)
	}
	if err := m.run(t.Context(), "nonsense", nil, nil); err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("a refused command returned %v", err)
	}
	if err := m.run(t.Context(), "quit", nil, nil); !errors.Is(err, errMonitorClosed) {
		t.Errorf("a closed monitor returned %v, want %v", err, errMonitorClosed)
	}
	if m.shutdownReason() != "guest-reset" {
		t.Errorf("shutdown reason is %q, want guest-reset", m.shutdownReason())
	}
}
