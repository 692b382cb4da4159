// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// report waits for what the fake writes to the port.
func report(got *string) func(context.Context, *Machine) error {
	return func(ctx context.Context, m *Machine) error {
		line, err := m.Line(ctx, MeasurementsPort)
		*got = string(line)
		return err
	}
}

func TestBoot(t *testing.T) {
	tests := map[string]struct {
		behaviour string
		options   BootOptions
		cause     error // nil: success
		exit      string
		starts    int
		says      string
	}{
		"reports":          {behaviour: fakeReports, starts: 1},
		"stuck":            {behaviour: fakeStuck, options: BootOptions{Stall: 500 * time.Millisecond, Attempts: 3}, cause: ErrStuck, starts: 3, says: "  | BdsDxe: starting Boot0001"},
		"progress for now": {behaviour: fakeChatty, options: BootOptions{Stall: 500 * time.Millisecond, Deadline: 2 * time.Second}, cause: ErrDeadline, starts: 1, says: "  | tick"},
		"panics":           {behaviour: fakePanics, cause: ErrEnded, exit: "guest-reset", starts: 1, says: "Kernel panic"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c, starts := useFakeQEMU(t, tc.behaviour)
			var stages []Stage
			tc.options.Progress = func(p Progress) { stages = append(stages, p.Stage) }
			var line string
			m, err := Boot(t.Context(), c, tc.options, report(&line))
			if starts() != tc.starts {
				t.Errorf("the machine was started %d times, want %d", starts(), tc.starts)
			}
			if tc.cause == nil {
				if err != nil {
					t.Fatal(err)
				}
				m.Stop()
				if line != "the report" {
					t.Errorf("the report is %q", line)
				}
				if diff := cmp.Diff([]Stage{StageFirmware, StageLoader, StageKernel}, stages); diff != "" {
					t.Errorf("stages (-want +got):\n%s", diff)
				}
				return
			}
			var failed *BootError
			if !errors.As(err, &failed) || !errors.Is(err, tc.cause) {
				t.Fatalf("got %v, want %v", err, tc.cause)
			}
			if failed.Exit.Reason != tc.exit {
				t.Errorf("the machine ended with %q, want %q", failed.Exit.Reason, tc.exit)
			}
			if !strings.Contains(err.Error(), tc.says) {
				t.Errorf("the error does not show the console's %q: %v", tc.says, err)
			}
		})
	}
}

func TestBootEndsWithItsContext(t *testing.T) {
	c, _ := useFakeQEMU(t, fakeStuck)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := Boot(ctx, c, BootOptions{Progress: func(p Progress) {
		if p.Stage == StageLoader {
			cancel()
		}
	}}, report(new(string)))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestStartTellsWhyQEMURefused(t *testing.T) {
	c, _ := useFakeQEMU(t, fakeRefuses)
	m, err := Start(t.Context(), c)
	if err == nil {
		m.Stop()
		t.Fatal("a QEMU that ended counts as started")
	}
	if !strings.Contains(err.Error(), "no such board") {
		t.Errorf("the error lacks QEMU's words: %v", err)
	}
}

func TestStopIsTheEndOfEverything(t *testing.T) {
	c, _ := useFakeQEMU(t, fakeStuck)
	m, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	m.Stop()
	m.Stop()
	exit, err := m.Wait(t.Context())
	if err != nil || exit.Reason != "host-qmp-quit" || exit.Err != nil {
		t.Errorf("the machine ended with %+v, %v", exit, err)
	}
	if _, err := m.Line(t.Context(), MeasurementsPort); !errors.Is(err, errMachineEnded) {
		t.Errorf("a port of a machine that is gone says %v, want %v", err, errMachineEnded)
	}
}

func TestStateIsKeptAndLocked(t *testing.T) {
	c, _ := useFakeQEMU(t, fakeStuck)
	c.StateDir = t.TempDir()
	m, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if other, err := Start(t.Context(), c); err == nil {
		other.Stop()
		t.Error("two machines run on one state folder")
	} else if !strings.Contains(err.Error(), "running already") {
		t.Errorf("the error does not say why: %v", err)
	}
	m.Stop()
	if m, err = Start(t.Context(), c); err != nil {
		t.Fatalf("the machine does not start again: %v", err)
	}
	m.Stop()
}

func TestKVMIsUsedOnlyWhereAMachineRanWithIt(t *testing.T) {
	for behaviour, want := range map[string]bool{fakeReports: true, fakeSilent: false, fakeRefuses: false} {
		t.Run(behaviour, func(t *testing.T) {
			c, _ := useFakeQEMU(t, behaviour)
			c, err := c.withDefaults()
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			if got := c.probeKVM(ctx); got != want {
				t.Errorf("the probe says %t, want %t", got, want)
			}
		})
	}
}

// plug is a network that keeps what it was sent.
type plug struct{ got, detached chan string }

func (p plug) Attach(_ context.Context, conn net.Conn) {
	frame := make([]byte, len("a frame"))
	io.ReadFull(conn, frame)
	p.got <- string(frame)
	io.Copy(io.Discard, conn)
	p.detached <- string(frame)
}

func TestNetworkIsAttachedAndDetached(t *testing.T) {
	c, _ := useFakeQEMU(t, fakeReports)
	network := plug{make(chan string, 1), make(chan string, 1)}
	c.Network = network
	m, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if got := <-network.got; got != "a frame" {
		t.Errorf("the network was sent %q", got)
	}
	m.Stop()
	select {
	case <-network.detached:
	default:
		t.Error("the machine is gone and the network still serves it")
	}
}
