// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/constellation-os/constellation/cli/local/network"
	"github.com/constellation-os/constellation/services/provider"
)

// MachineSpec is one machine.
type MachineSpec struct {
	Name    string        `json:"name"`
	Role    provider.Role `json:"role"`
	MAC     string        `json:"mac"`
	Address netip.Addr    `json:"address"`
}

// Where machines are in the network.
const (
	firstControlPlane = 10
	firstWorker       = 50
	// MaxControlPlanes and MaxWorkers are as many as there are addresses for.
	MaxControlPlanes = firstWorker - firstControlPlane
	MaxWorkers       = 200
)

// Machines are those of a cluster: control-plane-1, …, worker-1, ….
func Machines(controlPlanes, workers int) []MachineSpec {
	s := &Spec{}
	s.Grow(provider.ControlPlane, controlPlanes)
	s.Grow(provider.Worker, workers)
	return s.Machines
}

// Grow adds machines of a role until there are so many, under the lowest free numbers,
// and returns those that it added.
func (s *Spec) Grow(role provider.Role, count int) (added []MachineSpec) {
	have := s.Count(role)
	for number := 1; have < count; number++ {
		m := newMachine(role, number)
		if s.Has(m.Name) {
			continue
		}
		s.Machines, added, have = append(s.Machines, m), append(added, m), have+1
	}
	slices.SortStableFunc(s.Machines, func(a, b MachineSpec) int { return a.Address.Compare(b.Address) })
	return added
}

func newMachine(role provider.Role, number int) MachineSpec {
	first := firstControlPlane
	if role == provider.Worker {
		first = firstWorker
	}
	host := byte(first + number - 1)
	return MachineSpec{
		Name: fmt.Sprintf("%s-%d", role, number), Role: role,
		MAC: fmt.Sprintf("52:54:00:4d:00:%02x", host), Address: netip.AddrFrom4([4]byte{10, 77, 0, host}),
	}
}

// Count is how many machines have a role.
func (s *Spec) Count(role provider.Role) (n int) {
	for _, m := range s.Machines {
		if m.Role == role {
			n++
		}
	}
	return n
}

// Has says whether the cluster has a machine of that name.
func (s *Spec) Has(name string) bool {
	return slices.ContainsFunc(s.Machines, func(m MachineSpec) bool { return m.Name == name })
}

// Without removes a machine.
func (s *Spec) Without(name string) {
	s.Machines = slices.DeleteFunc(s.Machines, func(m MachineSpec) bool { return m.Name == name })
}

// First is the machine that founds the cluster.
func (s *Spec) First() MachineSpec {
	i := slices.IndexFunc(s.Machines, func(m MachineSpec) bool { return m.Role == provider.ControlPlane })
	return s.Machines[i] // a spec without one is none
}

// controlPlanes are the addresses of control-plane machines.
func (s *Spec) controlPlanes() (out []netip.Addr) {
	for _, m := range s.Machines {
		if m.Role == provider.ControlPlane {
			out = append(out, m.Address)
		}
	}
	return out
}

// apiServers are where API servers are, or will be.
func (s *Spec) apiServers() (out []netip.AddrPort) {
	for _, a := range s.controlPlanes() {
		out = append(out, netip.AddrPortFrom(a, APIServerPort))
	}
	return out
}

// hosts describes the machines to their network.
func (s *Spec) hosts() (out []network.Host) {
	for _, m := range s.Machines {
		out = append(out, network.Host{Name: m.Name, MAC: m.MAC, Address: m.Address})
	}
	return out
}
