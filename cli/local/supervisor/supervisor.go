// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/constellation-os/constellation/cli/local/machine"
	"github.com/constellation-os/constellation/cli/local/network"
	"github.com/constellation-os/constellation/services/bootstrapper"
)

// Options are what a supervisor is made of besides its folder.
type Options struct {
	Runner Runner
	// Bundle makes the handler that serves the bundle in a folder.
	Bundle func(folder string) (http.Handler, error)
	// Log receives what happens, a line each.
	Log io.Writer
}

// Supervisor has a cluster's machines.
type Supervisor struct {
	dir      Dir
	spec     *Spec
	machines []*supervised
	logf     func(format string, args ...any)

	down     chan struct{} // closed when somebody asked for the end
	downOnce sync.Once
	ctx      context.Context // ends with everything
}

// Run runs the cluster of a folder until ctx is done or somebody asks for its end. When
// it returns nothing of the cluster runs. The folder stays.
func Run(ctx context.Context, dir Dir, o Options) error {
	unlock, err := dir.lock()
	if err != nil {
		return err
	}
	defer unlock()
	spec, err := dir.Spec()
	if err != nil {
		return err
	}
	if err := os.WriteFile(dir.path(pidFile), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return err
	}
	defer os.Remove(dir.path(pidFile))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &Supervisor{dir: dir, spec: spec, down: make(chan struct{}), ctx: ctx, logf: logger(o.Log)}
	err = s.run(ctx, cancel, o)
	if err != nil {
		s.logf("ended: %v", err)
	} else {
		s.logf("ended")
	}
	return err
}

// logger writes lines with the time.
func logger(w io.Writer) func(format string, args ...any) {
	var mu sync.Mutex
	return func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(w, "%s %s\n", time.Now().UTC().Format(time.RFC3339), fmt.Sprintf(format, args...))
	}
}

func (s *Supervisor) run(ctx context.Context, cancel func(), o Options) error {
	n, err := network.New(s.spec.network())
	if err != nil {
		return err
	}
	defer n.Close()
	stop, err := s.serveMachines(n, o.Bundle)
	if err != nil {
		return err
	}
	defer stop()
	if err := s.prepare(n, o.Runner); err != nil {
		return err
	}
	defer func() {
		for _, m := range s.machines {
			m.console.close()
		}
	}()
	end, err := s.serveControl()
	if err != nil {
		return err
	}
	defer end()
	defer s.stopAll(cancel)
	for _, m := range s.machines {
		if err := m.start(ctx); err != nil {
			return err
		}
	}
	s.logf("%d machines", len(s.machines))
	select {
	case <-ctx.Done():
	case <-s.down:
	}
	return nil
}

// stopAll stops the machines at once, and waits for the last.
func (s *Supervisor) stopAll(cancel func()) {
	cancel()
	for _, m := range s.machines {
		if err := m.stop(); err != nil && !errors.Is(err, ErrState) {
			s.logf("%v", err)
		}
	}
}

// prepare makes the machines' folders, and forwards ports to them.
func (s *Supervisor) prepare(n *network.Network, r Runner) error {
	turn := make(chan struct{}, 1)
	for _, m := range s.spec.Machines {
		config, err := s.dir.prepare(s.spec, m)
		if err != nil {
			return err
		}
		config.Network = n
		f, err := n.Forward(0, network.To(netip.AddrPortFrom(m.Address, bootstrapper.Port)))
		if err != nil {
			return err
		}
		c, err := openConsole(s.dir.ConsoleFile(m.Name), s.dir.OlderConsoleFile(m.Name))
		if err != nil {
			return err
		}
		config.Console = c
		s.machines = append(s.machines, &supervised{
			spec: m, port: f.Port(), config: config, console: c, runner: r, turn: turn, logf: s.logf, state: StateWaiting,
		})
	}
	first := slices.IndexFunc(s.spec.Machines, func(m MachineSpec) bool { return m.Role == "control-plane" })
	if first < 0 {
		return errors.New("local cluster: it has no control plane")
	}
	_, err := n.Forward(s.spec.APIPort, network.To(netip.AddrPortFrom(s.spec.Machines[first].Address, APIServerPort)))
	return err
}

func (s *Supervisor) find(name string) *supervised {
	i := slices.IndexFunc(s.machines, func(m *supervised) bool { return m.spec.Name == name })
	if i < 0 {
		return nil
	}
	return s.machines[i]
}

// QEMU is the Runner of real machines.
type QEMU struct{}

// Boot implements Runner. A machine has booted when it has reported its measurements:
// its services run then.
func (QEMU) Boot(ctx context.Context, c machine.Config, progress func(stage string)) (Machine, error) {
	o := machine.BootOptions{Progress: func(p machine.Progress) { progress(string(p.Stage)) }}
	m, err := machine.Boot(ctx, c, o, func(ctx context.Context, m *machine.Machine) error {
		_, err := m.Line(ctx, machine.MeasurementsPort)
		return err
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}
