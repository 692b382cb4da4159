// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/constellation-os/constellation/tools/guesttest/wire"
)

// session is what the guest says.
type session struct {
	begin   time.Time // when this program started
	back    returns
	started chan struct{} // closed when the test starts
	code    int           // its exit code, once receive has returned nil
	file    *os.File      // the returned file that is being written
}

var errEnded = errors.New("the guest ended before its test did")

// receive follows the guest until the test has ended.
func (s *session) receive(r io.Reader) error {
	defer func() { s.file.Close() }() // of nothing, too
	for {
		t, content, err := wire.Read(r)
		if err != nil {
			return errEnded
		}
		switch t {
		case wire.Started:
			close(s.started)
		case wire.Stdout:
			_, err = os.Stdout.Write(content)
		case wire.Stderr:
			_, err = os.Stderr.Write(content)
		case wire.File:
			err = s.open(string(content))
		case wire.Data:
			if s.file != nil {
				_, err = s.file.Write(content)
			}
		case wire.Failed:
			return fmt.Errorf("in the guest: %s", content)
		case wire.Exit:
			if len(content) != 1 {
				return errors.New("the guest sent an exit code that is none")
			}
			s.code = int(content[0])
			return nil
		default:
			return fmt.Errorf("the guest sent a frame of type %d", t)
		}
		if err != nil {
			return err
		}
	}
}

// open begins a returned file; one that nobody asked for is dropped.
func (s *session) open(name string) error {
	s.file.Close()
	s.file = nil
	path := s.back.place(name)
	if path == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.Create(path)
	s.file = file
	return err
}

// wait waits for the test's end.
func (s *session) wait(ctx context.Context, received <-chan error) error {
	started := s.started
	booted := time.NewTimer(bootPatience)
	defer booted.Stop()
	for {
		select {
		case err := <-received:
			return err
		case <-started:
			started = nil // and nothing more is received from it
			fmt.Fprintf(os.Stderr, "guesttest: the test starts, %.1f s after the command\n", time.Since(s.begin).Seconds())
			booted.Stop()
		case <-booted.C:
			return fmt.Errorf("the guest did not start the test within %v", bootPatience)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
