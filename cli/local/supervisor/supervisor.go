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
	dir     Dir
	runner  Runner
	network *network.Network
	turn    chan struct{} // who boots holds it
	logf    func(format string, args ...any)

	down     chan struct{} // closed when somebody asked for the end
	downOnce sync.Once
	ctx      context.Context // ends with everything

	changing sync.Mutex // held while the machines become others
	mu       sync.Mutex
	spec     *Spec // replaced, never changed
	machines []*supervised
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
	s := &Supervisor{
		dir: dir, runner: o.Runner, turn: make(chan struct{}, 1), spec: &Spec{}, down: make(chan struct{}), ctx: ctx, logf: logger(o.Log),
	}
	err = s.run(spec, cancel, o)
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

func (s *Supervisor) run(spec *Spec, cancel func(), o Options) (err error) {
	gateway := netip.MustParseAddr(network.Gateway)
	if s.network, err = network.New(network.Options{Names: map[string][]netip.Addr{EndpointName: {gateway}}}); err != nil {
		return err
	}
	defer s.network.Close()
	stop, err := s.serveMachines(spec.Bundle, o.Bundle)
	if err != nil {
		return err
	}
	defer stop()
	if err := s.serveEndpoint(spec.APIPort); err != nil {
		return err
	}
	defer s.stopAll(cancel) // also if what follows fails
	if err := s.become(spec); err != nil {
		return err
	}
	end, err := s.serveControl()
	if err != nil {
		return err
	}
	defer func() {
		s.stopAll(cancel) // while those who wait for the end are told of it
		end()
	}()
	s.logf("%d machines", len(spec.Machines))
	select {
	case <-s.ctx.Done():
	case <-s.down:
	}
	return nil
}

// serveEndpoint has whichever API server there is reached at one address: for the
// machines at their gateway, for this computer at a port of its loopback.
func (s *Supervisor) serveEndpoint(port uint16) error {
	targets := func() []netip.AddrPort { return s.current().apiServers() }
	if _, err := s.network.ForwardGateway(APIServerPort, targets); err != nil {
		return err
	}
	_, err := s.network.Forward(port, targets)
	return err
}

// stopAll stops the machines at once, and waits for the last.
func (s *Supervisor) stopAll(cancel func()) {
	cancel()
	s.changing.Lock() // whoever had it has ended, and nobody begins any more
	defer s.changing.Unlock()
	for _, m := range s.all() {
		if err := m.stop(); err != nil && !errors.Is(err, ErrState) {
			s.logf("%v", err)
		}
		m.console.close()
	}
}

// current is what the cluster consists of.
func (s *Supervisor) current() *Spec {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spec
}

// all are the machines.
func (s *Supervisor) all() []*supervised {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.machines)
}

func (s *Supervisor) find(name string) *supervised {
	for _, m := range s.all() {
		if m.spec.Name == name {
			return m
		}
	}
	return nil
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
