// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/constellation-os/constellation/services/provider"
)

// Status is what a supervisor says of its cluster.
type Status struct {
	Name     string          `json:"name"`
	Process  int             `json:"process"`
	APIPort  uint16          `json:"api_port"`
	Machines []MachineStatus `json:"machines"`
}

// MachineStatus is what it says of a machine.
type MachineStatus struct {
	Name    string        `json:"name"`
	Role    provider.Role `json:"role"`
	Address string        `json:"address"`
	// Port of this computer at which the machine's bootstrapper is reached.
	Port  uint16 `json:"port"`
	State State  `json:"state"`
	// Stage of the boot.
	Stage string `json:"stage,omitempty"`
	// Reason of a failure or stop, for people.
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since"`
}

func (s *Supervisor) status() *Status {
	spec := s.current()
	out := &Status{Name: spec.Name, Process: os.Getpid(), APIPort: spec.APIPort}
	for _, m := range s.all() {
		m.mu.Lock()
		out.Machines = append(out.Machines, MachineStatus{
			Name: m.spec.Name, Role: m.spec.Role, Address: m.spec.Address.String(), Port: m.forward.Port(), State: m.state, Stage: m.stage, Reason: m.reason, Since: m.since,
		})
		m.mu.Unlock()
	}
	return out
}

// serveControl answers commands on the folder's socket.
func (s *Supervisor) serveControl() (end func(), err error) {
	l, err := s.dir.listen()
	if err != nil {
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	server := newServer(s.control())
	server.BaseContext = func(net.Listener) context.Context { return s.ctx }
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // ends with an error when it is closed
	}()
	return func() {
		server.Close()
		<-done
	}, nil
}

// control is the interface of commands to the supervisor, HTTP with JSON.
func (s *Supervisor) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.status())
	})
	mux.HandleFunc("POST /v1/down", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		s.downOnce.Do(func() { close(s.down) })
	})
	mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.reload(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("GET /v1/capture", func(w http.ResponseWriter, r *http.Request) {
		err := s.network.Capture(r.Context(), &prompt{w, http.NewResponseController(w)})
		if err != nil || s.ctx.Err() != nil {
			s.logf("capture: %v", errors.Join(err, s.ctx.Err()))
			panic(http.ErrAbortHandler) // so that the caller does not take it for whole
		}
	})
	// Ends when the supervisor does.
	mux.HandleFunc("GET /v1/wait", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-s.ctx.Done():
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("POST /v1/machines/{name}/{action}", func(w http.ResponseWriter, r *http.Request) {
		m := s.find(r.PathValue("name"))
		if m == nil {
			http.Error(w, errNoMachine.Error(), http.StatusNotFound)
			return
		}
		var err error
		switch r.PathValue("action") {
		case "dial":
			err = s.carry(m, r.URL.Query().Get("port"), w)
		case "start":
			err = m.start(s.ctx)
		case "stop":
			err = m.stop()
		case "console":
			err = m.converse(s.ctx, w)
		default:
			http.NotFound(w, r)
			return
		}
		switch {
		case errors.Is(err, ErrState):
			http.Error(w, err.Error(), http.StatusConflict)
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return mux
}

// prompt is a writer that keeps nothing back.
type prompt struct {
	http.ResponseWriter
	controller *http.ResponseController
}

func (p *prompt) Write(data []byte) (int, error) {
	n, err := p.ResponseWriter.Write(data)
	return n, errors.Join(err, p.controller.Flush())
}

// converse connects the caller to the machine's console, both ways, until the caller
// goes.
func (m *supervised) converse(ctx context.Context, w http.ResponseWriter) error {
	if m.keyboard() == nil {
		return fmt.Errorf("console of %s: it is not running: %w", m.spec.Name, ErrState)
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer conn.Close()
	defer closeOnDone(ctx, conn)()
	// Before the caller knows that it may type: the machine's echo is for its eyes.
	view := m.console.watch()
	defer view.close()
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: console\r\n\r\n"); err != nil {
		return nil // the caller is gone, and was answered already
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		keys := make([]byte, 1024)
		for {
			n, err := buffered.Read(keys)
			if keyboard := m.keyboard(); keyboard != nil && n > 0 {
				_, _ = keyboard.Write(keys[:n])
			}
			if err != nil {
				return
			}
		}
	}()
	view.copy(conn, gone)
	conn.Close()
	<-gone
	return nil
}
