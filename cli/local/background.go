// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/local/supervisor"
)

const (
	// startPatience is how long a supervisor may take until it answers.
	startPatience = 30 * time.Second
	// endPatience is how long one may take to end: its machines' TPMs write their state.
	endPatience = time.Minute
	// poll is how often a supervisor is looked after.
	poll = 100 * time.Millisecond
)

// startSupervisor starts this program as the supervisor of a folder, in a session of its
// own, and waits until it answers.
func startSupervisor(ctx context.Context, dir supervisor.Dir) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(dir.LogFile(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(self, "local", "supervise", string(dir))
	cmd.Args[0] = os.Args[0]
	cmd.Stdout, cmd.Stderr = log, log
	// Neither the terminal's Ctrl-C nor its end reaches it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the cluster's supervisor: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	client := supervisor.NewClient(dir)
	for {
		if _, err := client.Status(ctx); err == nil {
			return nil
		}
		select {
		case err := <-ended:
			// It ends well only if it was told to.
			if p, _ := dir.Presence(); err == nil || p != supervisor.Present {
				return errTakenDown
			}
			return fmt.Errorf("the cluster's supervisor did not start: %s", lastLine(dir.LogFile()))
		case <-ctx.Done():
			_ = cmd.Process.Signal(syscall.SIGTERM)
			<-ended
			return fmt.Errorf("start the cluster's supervisor: %w", context.Cause(ctx))
		case <-time.After(poll):
		}
	}
}

// lastLine is that of a log.
func lastLine(path string) string {
	data, err := command.ReadFile(path, 64<<20)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.TrimPrefix(lines[len(lines)-1], "constellation: ")
}

// stopSupervisor ends the supervisor of a folder, if there is one, and waits until it
// has ended.
func stopSupervisor(ctx context.Context, dir supervisor.Dir) error {
	ctx, cancel := context.WithTimeoutCause(ctx, endPatience, errors.New("the cluster's supervisor does not end"))
	defer cancel()
	client := supervisor.NewClient(dir)
	for dir.Running() {
		// One that only just starts does not answer yet.
		if err := client.Down(ctx); err != nil && !errors.Is(err, supervisor.ErrNotRunning) && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w\nwhat to do: end the process in supervisor.pid of %s, and run this again", context.Cause(ctx), dir)
		case <-time.After(poll):
		}
	}
	return nil
}
