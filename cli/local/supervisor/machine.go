// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/constellation-os/constellation/cli/local/machine"
	"github.com/constellation-os/constellation/cli/local/network"
)

// A Runner runs machines.
type Runner interface {
	// Boot starts a machine and waits until it has booted. Its console goes to
	// c.Console. It runs on until ctx ends or it is stopped.
	Boot(ctx context.Context, c machine.Config, progress func(stage string)) (Machine, error)
}

// Machine is one that runs.
type Machine interface {
	// Stop cuts its power, and returns when nothing is left of it.
	Stop()
	// Wait waits for its end.
	Wait(ctx context.Context) (machine.Exit, error)
	// ConsoleInput is the console's keyboard.
	ConsoleInput() io.Writer
}

// State is that of a machine.
type State string

// States of a machine.
const (
	// StateIdle: it is to join a cluster that there is not yet.
	StateIdle State = "idle"
	// StateWaiting: machines start one after another, and it is another's turn.
	StateWaiting State = "waiting"
	StateBooting State = "booting"
	StateRunning State = "running"
	// StateStopped: somebody stopped it, or it switched itself off.
	StateStopped State = "stopped"
	// StateFailed: it did not boot or ended by itself.
	StateFailed State = "failed"
)

// ErrState says that a machine is not in a state in which that can be done.
var ErrState = errors.New("not possible now")

// supervised is a machine with its history.
type supervised struct {
	spec    MachineSpec
	forward *network.Forward // to the machine's bootstrapper
	config  machine.Config
	console *console
	runner  Runner
	turn    chan struct{} // who boots holds it: machines that boot at once starve each other
	logf    func(format string, args ...any)

	mu      sync.Mutex
	state   State
	stage   string // of the boot
	reason  string // of a failure
	since   time.Time
	running Machine            // in StateRunning
	cancel  context.CancelFunc // ends the run; nil if there is none
	ended   chan struct{}      // closed when the run has ended
}

// set is for all states but StateRunning, which needs the machine.
func (m *supervised) set(s State, stage, reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state, m.stage, m.reason, m.since, m.running = s, stage, reason, time.Now(), nil
}

// untouched says whether the machine was never started.
func (m *supervised) untouched() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state == StateIdle
}

// start begins a run, unless there is one.
func (m *supervised) start(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cancel != nil {
		return fmt.Errorf("start %s: it is %s: %w", m.spec.Name, m.state, ErrState)
	}
	ctx, m.cancel = context.WithCancel(ctx)
	m.ended = make(chan struct{})
	m.state, m.stage, m.reason, m.since = StateWaiting, "", "", time.Now()
	go m.run(ctx)
	return nil
}

// stop ends the run and waits until nothing is left of it.
func (m *supervised) stop() error {
	m.mu.Lock()
	cancel, ended := m.cancel, m.ended
	m.mu.Unlock()
	if cancel == nil {
		return fmt.Errorf("stop %s: it is not running: %w", m.spec.Name, ErrState)
	}
	cancel()
	<-ended
	return nil
}

// run is one run: as many boots as the machine asks for by resetting itself.
func (m *supervised) run(ctx context.Context) {
	defer func() {
		m.mu.Lock()
		m.cancel()
		m.cancel = nil
		close(m.ended)
		m.mu.Unlock()
	}()
	for {
		exit, err := m.boot(ctx)
		switch {
		case ctx.Err() != nil:
			m.set(StateStopped, "", "")
			return
		case err != nil:
			m.logf("%s: %v", m.spec.Name, err)
			m.set(StateFailed, "", err.Error())
			return
		case exit.Reason == "guest-reset" && exit.Err == nil:
			m.logf("%s restarts", m.spec.Name)
		case exit.Reason == "guest-shutdown" && exit.Err == nil:
			m.set(StateStopped, "", "it switched itself off")
			return
		default:
			reason := fmt.Sprintf("it ended by itself: %s", exit.Reason)
			if exit.Err != nil {
				reason = fmt.Sprintf("it ended by itself: %v", exit.Err)
			}
			m.logf("%s: %s", m.spec.Name, reason)
			m.set(StateFailed, "", reason)
			return
		}
	}
}

// boot boots the machine when it is its turn, and returns when it has ended.
func (m *supervised) boot(ctx context.Context) (machine.Exit, error) {
	m.set(StateWaiting, "", "")
	select {
	case m.turn <- struct{}{}:
	case <-ctx.Done():
		return machine.Exit{}, ctx.Err()
	}
	m.set(StateBooting, "", "")
	running, err := m.runner.Boot(ctx, m.config, func(stage string) { m.set(StateBooting, stage, "") })
	<-m.turn
	if err != nil {
		return machine.Exit{}, err
	}
	m.mu.Lock()
	m.state, m.stage, m.reason, m.since, m.running = StateRunning, "", "", time.Now(), running
	m.mu.Unlock()
	exit, err := running.Wait(ctx)
	if err != nil {
		running.Stop()
	}
	return exit, err
}

// keyboard is the console's, nil if the machine does not run.
func (m *supervised) keyboard() io.Writer {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running == nil {
		return nil
	}
	return m.running.ConsoleInput()
}

// prepare makes the machine's folder, with a state disk that is empty at first.
func (d Dir) prepare(s *Spec, m MachineSpec) (machine.Config, error) {
	folder := d.MachineFolder(m.Name)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return machine.Config{}, err
	}
	c := machine.Config{
		Name:       m.Name,
		Disk:       s.Disk,
		Firmware:   machine.Firmware{Code: s.FirmwareCode, Vars: s.FirmwareVars},
		Shape:      s.Shape,
		TPM:        machine.TPM{AuthorityDir: d.AuthorityFolder()},
		StateDir:   folder,
		MACAddress: m.MAC,
	}
	if s.Shape.StateDisk() != 0 {
		c.StateDisk = filepath.Join(folder, "state.raw")
		if err := machine.CreateStateDisk(c.StateDisk, int64(s.StateDiskGiB)<<30); err != nil && !errors.Is(err, fs.ErrExist) {
			return c, err
		}
	}
	return c, nil
}
