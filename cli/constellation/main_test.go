// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asCommand makes the test's program the command.
const asCommand = "CONSTELLATION_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	os.Exit(m.Run())
}

// running is the command in a process of its own.
type running struct {
	*exec.Cmd
	errs bytes.Buffer
	done chan error
}

func begin(t *testing.T, args ...string) *running {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Cmd: exec.CommandContext(t.Context(), self, args...), done: make(chan error, 1)}
	r.Env = append(os.Environ(), asCommand+"=1")
	r.Stderr = &r.errs
	if _, err := r.StdinPipe(); err != nil { // which nobody writes
		t.Fatal(err)
	}
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.done <- r.Wait() }()
	return r
}

// interrupt does so once, or again and again until the process ends. Bazel takes SIGTERM
// for the end of a test's time, in whatever the test's program does.
func (r *running) interrupt(t *testing.T, impatient bool) *os.ProcessState {
	t.Helper()
	r.Process.Signal(os.Interrupt)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for late := time.After(20 * time.Second); ; {
		select {
		case err := <-r.done:
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
				t.Fatalf("ended with %v", err)
			}
			return r.ProcessState
		case <-again.C:
			if impatient {
				r.Process.Signal(os.Interrupt)
			}
		case <-late:
			r.Process.Kill()
			t.Fatal("an interrupt does not end it")
		}
	}
}

// silentTPM takes commands and answers none. heard tells of the first.
func silentTPM(t *testing.T) (socket string, heard <-chan bool) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	told := make(chan bool, 1)
	go func() {
		if conn, err := l.Accept(); err == nil {
			conn.Read(make([]byte, 1))
			told <- true
			io.Copy(io.Discard, conn) // until the command is gone
			conn.Close()
		}
	}()
	return socket, told
}

// TestInterrupt: the command ends when it is told to, also while it waits for what
// cannot be interrupted.
func TestInterrupt(t *testing.T) {
	nonce := strings.Repeat("5a", 32)
	t.Run("a silent pipe", func(t *testing.T) {
		fifo := filepath.Join(t.TempDir(), "fifo")
		if err := syscall.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		r := begin(t, "policy", "check", fifo)
		w, err := os.OpenFile(fifo, os.O_WRONLY, 0) // returns when the command has opened its end
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if state := r.interrupt(t, false); state.ExitCode() != 2 || !strings.Contains(r.errs.String(), "interrupted") {
			t.Errorf("%v, %s", state, r.errs.String())
		}
	})
	t.Run("a silent TPM", func(t *testing.T) {
		socket, heard := silentTPM(t)
		r := begin(t, "evidence", "collect", "--nonce", nonce, "--device", socket)
		<-heard
		if state := r.interrupt(t, false); state.ExitCode() != 2 || !strings.Contains(r.errs.String(), "interrupted") {
			t.Errorf("%v, %s", state, r.errs.String())
		}
	})
	t.Run("the second signal ends it at once", func(t *testing.T) {
		socket, heard := silentTPM(t)
		r := begin(t, "evidence", "collect", "--nonce", nonce, "--device", socket)
		<-heard
		state := r.interrupt(t, true)
		if status := state.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGINT {
			t.Errorf("%v, %s", state, r.errs.String())
		}
	})
}
