// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/journal"
)

// store is the cluster's etcd, seen from a machine that becomes a member.
type store struct {
	*machine
	announced, votes bool
	// busy is how often etcd still has another member that learns.
	busy, promotions int
}

const etcdMembers = "one=https://10.77.0.10:2380,two=https://10.77.0.11:2380"

func (s *store) Announce(context.Context) (members string, err error) {
	return etcdMembers, s.do("announce", func() error {
		s.must(s.kubernetes["/etc/kubernetes/pki/etcd/ca.key"] != "" || s.memory["/etc/kubernetes/pki/etcd/ca.key"] != "", "announced without etcd's authority")
		s.must(!s.units[KubeletService], "announced while kubelet ran")
		if s.busy > 0 {
			s.busy--
			return errors.New("too many learner members in cluster")
		}
		s.announced = true
		return nil
	})
}

func (s *store) Promote(context.Context) error {
	return s.do("promote", func() error {
		s.must(s.announced, "promoted what was not announced")
		if s.promotions++; s.promotions == 1 {
			return errors.New("can only promote a learner member which is in sync with leader")
		}
		s.votes = true
		return nil
	})
}

// further is one process of a machine that becomes one more of a control plane.
func (s *store) further(ctx context.Context, ring *keys.Keyring) ([]*api.Progress, error) {
	m := s.machine
	fresh := m.askTicket(ring)
	return m.process(ctx, ring, "", "", func(j *journal.Journal) Plan {
		d := &Disk{Mapper: m, Units: m, Keys: TicketKey{UUID: m.ticket.uuid, Key: m.ticket.key}, Witness: m.ticket, Opening: j.Opening, Settle: func() error {
			if err := j.Settle(); err != nil {
				return err
			}
			return m.writeNode("request")
		}}
		cluster, _ := ring.ClusterID()
		if fresh {
			d.NewUUID = func() (string, error) { return m.ticket.uuid, nil }
		}
		return Plan{
			Steps: []Step{&Lock{Register: m, Cluster: cluster}, d},
			Then: func() ([]Step, error) {
				if err := j.Adopt("request", "two"); err != nil {
					return nil, err
				}
				list := rest(m, ring, j)
				for _, step := range list {
					switch step := step.(type) {
					case *ControlPlane:
						step.Further = &Further{Given: map[string][]byte{"/etc/kubernetes/pki/etcd/ca.key": []byte("given")}, Etcd: s}
						step.Render = func(members string) (map[string][]byte, error) {
							return map[string][]byte{kubeadmConfig: []byte("configuration " + members)}, nil
						}
					case *APIServer:
						step.Etcd = s
					case *Services:
						step.Further = true
					case *Node:
						step.Cluster = elsewhere{m}
					}
				}
				return list, nil
			},
		}
	})
}

func (s *store) run(t *testing.T, ring *keys.Keyring) (events []*api.Progress, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { events, err = s.further(t.Context(), ring) })
	return events, err
}

func newStore() *store {
	m := newMachine()
	m.applied = true // by the first node
	return &store{machine: m}
}

func (s *store) finished(t *testing.T) {
	t.Helper()
	if !s.locked() || !s.units[KubeletService] || !s.units[SecretsProviderService] || !s.whole() || !s.votes {
		t.Errorf("the node is not complete: %+v", s)
	}
	if got := s.memory[kubeadmConfig]; got != "configuration " {
		t.Errorf("the cluster would be told of members: %q", got)
	}
	for _, wrong := range s.wrong {
		t.Error(wrong)
	}
}

func (s *store) whole() bool { return s.machine.finished && s.mounted && s.loaded }

func TestFurtherControlPlane(t *testing.T) {
	s, ring := newStore(), keys.Generate()
	events, err := s.run(t, ring)
	if err != nil {
		t.Fatal(err)
	}
	s.finished(t)
	if got, want := outcomes(events), "1D 2D 3D 4D 5D 6D 7D 8D 9S"; got != want {
		t.Errorf("the steps ended %s, want %s", got, want)
	}
	if strings.Contains(strings.Join(s.trace, " "), " apply ") {
		t.Error("it applied the cluster's services anew")
	}
	// Until it has a vote, and not while the API server starts.
	if s.promotions != 2 {
		t.Errorf("it asked for a vote %d times, want 2", s.promotions)
	}
	s.off()
	if _, err := s.run(t, ring); err != nil {
		t.Fatal(err)
	}
	s.finished(t)
	if s.made != 1 {
		t.Errorf("kubeadm made files %d times", s.made)
	}
}

// TestOneLearnerAtATime: another control plane is on its way: this one waits for it.
func TestOneLearnerAtATime(t *testing.T) {
	s, ring := newStore(), keys.Generate()
	s.busy = 3
	if _, err := s.run(t, ring); err != nil {
		t.Fatal(err)
	}
	s.finished(t)
	if got := strings.Count(strings.Join(s.trace, " "), "announce"); got != 4 {
		t.Errorf("announced %d times, want 4", got)
	}
}

// TestFurtherIsCutOffAnywhere: the next ticket finishes it. (V20)
func TestFurtherIsCutOffAnywhere(t *testing.T) {
	ring := keys.Generate()
	for _, powerless := range []bool{false, true} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("powerless %v, after %v", powerless, after), func(t *testing.T) {
				for n := 1; ; n++ {
					s := newStore()
					s.at, s.after = n, after
					_, err := s.run(t, ring)
					if s.calls < n {
						if n < 50 {
							t.Errorf("only %d calls were cut off", n-1)
						}
						return
					}
					if err != nil && powerless {
						s.off()
					}
					if _, err := s.run(t, ring); err != nil {
						t.Fatalf("cut off at call %d, %q: the next ticket fails: %v", n, s.trace[n-1], err)
					}
					if s.finished(t); t.Failed() {
						t.Fatalf("cut off at call %d, %q", n, s.trace[n-1])
					}
				}
			})
		}
	}
}
