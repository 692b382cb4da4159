// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/constellation-os/constellation/cli/local/network"
	"github.com/constellation-os/constellation/services/bootstrapper"
)

// reload reads what the cluster consists of, and makes it so: of the spec the machines
// and the cluster that they join may have changed.
func (s *Supervisor) reload() error {
	spec, err := s.dir.Spec()
	if err != nil {
		return err
	}
	next := *s.current()
	next.Machines, next.Cluster = spec.Machines, spec.Cluster
	return s.become(&next)
}

// become ends machines that the spec does not have, prepares those that are new, and
// starts the ones whose time has come.
func (s *Supervisor) become(spec *Spec) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	if err := s.ctx.Err(); err != nil {
		return err
	}
	for _, m := range s.all() {
		if !slices.Contains(spec.Machines, m.spec) {
			s.drop(m)
		}
	}
	if err := s.network.SetHosts(spec.hosts()); err != nil {
		return err
	}
	for _, m := range spec.Machines {
		if s.find(m.Name) != nil {
			continue
		}
		if err := s.add(spec, m); err != nil {
			return fmt.Errorf("machine %s: %w", m.Name, err)
		}
	}
	s.mu.Lock()
	s.spec = spec
	s.mu.Unlock()
	return s.startDue()
}

// startDue starts the machines that were never started, if there is something for them
// to do: the first founds the cluster, and only then the others have one to join. Until
// then they would only take processors from it.
func (s *Supervisor) startDue() error {
	spec := s.current()
	for _, m := range s.all() {
		if spec.Cluster == nil && m.spec != spec.First() || !m.untouched() {
			continue
		}
		if err := m.start(s.ctx); err != nil && !errors.Is(err, ErrState) {
			return err
		}
	}
	return nil
}

// add prepares a machine's folder, and forwards a port to it.
func (s *Supervisor) add(spec *Spec, m MachineSpec) error {
	config, err := s.dir.prepare(spec, m)
	if err != nil {
		return err
	}
	c, err := openConsole(s.dir.ConsoleFile(m.Name), s.dir.OlderConsoleFile(m.Name))
	if err != nil {
		return err
	}
	f, err := s.network.Forward(0, network.To(netip.AddrPortFrom(m.Address, bootstrapper.Port)))
	if err != nil {
		c.close()
		return err
	}
	config.Network, config.Console = s.network, c
	s.mu.Lock()
	defer s.mu.Unlock()
	s.machines = append(s.machines, &supervised{
		spec: m, forward: f, config: config, console: c, runner: s.runner, turn: s.turn, logf: s.logf, state: StateIdle,
	})
	slices.SortStableFunc(s.machines, func(a, b *supervised) int { return a.spec.Address.Compare(b.spec.Address) })
	return nil
}

// drop ends a machine. Its folder is removed by whoever took it out of the spec.
func (s *Supervisor) drop(m *supervised) {
	if err := m.stop(); err != nil && !errors.Is(err, ErrState) {
		s.logf("%v", err)
	}
	m.forward.Close()
	m.console.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.machines = slices.DeleteFunc(s.machines, func(other *supervised) bool { return other == m })
}
