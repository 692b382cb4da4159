// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/journal"
)

// ticket is what a cluster has issued for a disk, and what it knows of that.
type ticket struct {
	uuid  string
	key   []byte
	known disk.Generation
	// offline is a cluster that does not answer.
	offline bool
}

// Advance is the cluster's.
func (k *ticket) Advance(_ context.Context, uuid string, from, to disk.Generation) (err error) {
	if k.offline {
		return errors.New("10.77.0.10: connection refused")
	}
	k.known, err = disk.Judge(uuid, k.known, from, to)
	if err != nil {
		return fmt.Errorf("10.77.0.10 refuses: rolled-back: %w", err)
	}
	return nil
}

const kubeletFile = "/var/lib/kubelet/config.yaml"

// Install implements Credentials.
func (m *machine) Install() (outcome Outcome, err error) {
	return outcome, m.do("install kubelet's credentials", func() error {
		m.must(m.mounted, "installed credentials before the state disk was mounted")
		if m.synced["kubelet.conf"] != "" {
			outcome = Skipped
		}
		m.kubernetes["kubelet.conf"], m.synced["kubelet.conf"] = "issued", "issued"
		return nil
	})
}

// workers are machines that the cluster lets in: a ticket for a blank disk has a new name,
// until the disk has been opened once.
func (m *machine) askTicket(ring *keys.Keyring) (fresh bool) {
	if m.ticket == nil {
		m.ticket = &ticket{}
	}
	if fresh = m.uuid == ""; fresh {
		m.must(m.ticket.known == disk.Generation{}, "a node came with another disk")
		m.ticket.uuid = fmt.Sprintf("00000000-0000-4000-9000-%012d", m.formats+m.calls)
	}
	m.must(fresh || m.uuid == m.ticket.uuid, "the disk is not the one of the ticket")
	key, err := keys.Get[keys.StateDisk](context.Background(), ring, m.ticket.uuid, disk.KeySize, 0)
	if err != nil {
		panic(err)
	}
	m.ticket.key = key.Copy()
	return fresh
}

// join is one process that gets a ticket: for a first join, or to come back.
func (m *machine) join(ctx context.Context, ring *keys.Keyring) ([]*api.Progress, error) {
	fresh := m.askTicket(ring)
	return m.process(ctx, ring, "", "", func(j *journal.Journal) Plan {
		d := &Disk{Mapper: m, Units: m, Keys: TicketKey{UUID: m.ticket.uuid, Key: m.ticket.key}, Witness: m.ticket, Opening: j.Opening, Settle: func() error {
			if err := j.Settle(); err != nil {
				return err
			}
			return m.writeNode("worker")
		}}
		cluster, _ := ring.ClusterID()
		lock := &Lock{Register: m, Cluster: cluster}
		if fresh {
			d.NewUUID = func() (string, error) { return m.ticket.uuid, nil }
		} else {
			lock.Before = d.Fits
		}
		return Plan{
			Steps: []Step{lock, d},
			Then: func() ([]Step, error) {
				if _, err := m.readNode(); err != nil {
					return nil, err
				}
				if err := j.Adopt("", "worker"); err != nil {
					return nil, err
				}
				return []Step{
					&Components{Delivery: m},
					&Runtime{Units: m, Delivery: m},
					&Kubelet{Units: m, Files: m, Credentials: m, Render: func() (map[string][]byte, error) {
						return map[string][]byte{kubeletFile: []byte("configuration")}, nil
					}},
					&Node{Cluster: elsewhere{m}},
				}, nil
			},
		}
	})
}

// elsewhere is the cluster as a worker has it.
type elsewhere struct{ *machine }

func (e elsewhere) NodeReady(context.Context) error {
	return e.do("ask for the node", func() error {
		if !e.units[KubeletService] {
			return errors.New("kubelet has not registered it")
		}
		return nil
	})
}

func (e elsewhere) Await(context.Context, Report) error { return nil }

func asWorker(t *testing.T, m *machine, ring *keys.Keyring) (events []*api.Progress, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { events, err = m.join(t.Context(), ring) })
	return events, err
}

func finishedWorker(t *testing.T, m *machine) {
	t.Helper()
	if !m.locked() || !m.mounted || !m.fetched || !m.loaded || !m.units[KubeletService] || m.memory[kubeletFile] == "" || m.node != "worker" {
		t.Errorf("the worker is not complete: %+v", m)
	}
	for _, wrong := range m.wrong {
		t.Error(wrong)
	}
	if m.formats != 1 || m.made != 0 || m.applied {
		t.Errorf("formatted %d times, kubeadm ran %d times, services applied: %v", m.formats, m.made, m.applied)
	}
	if m.ticket.known != m.generation {
		t.Errorf("the cluster knows generation %v, the disk has %v", m.ticket.known, m.generation)
	}
	if _, ok := m.memory[MasterSecretFile]; ok {
		t.Error("a worker has the master secret")
	}
}

func TestWorker(t *testing.T) {
	m, ring := newMachine(), keys.Generate()
	events, err := asWorker(t, m, ring)
	if err != nil {
		t.Fatal(err)
	}
	finishedWorker(t, m)
	if got, want := outcomes(events), "1D 2D 3D 4D 10D 9S"; got != want {
		t.Errorf("the steps ended %s, want %s", got, want)
	}
	m.off()
	if events, err = asWorker(t, m, ring); err != nil {
		t.Fatal(err)
	}
	finishedWorker(t, m)
	if got, want := outcomes(events), "1D 2D 3S 4D 10D 9S"; got != want {
		t.Errorf("after a reboot the steps ended %s, want %s", got, want)
	}
}

// TestJoinIsCutOffAnywhere: the first join and the way back are finished by the next
// ticket, whatever the moment of the cut. (V20)
func TestJoinIsCutOffAnywhere(t *testing.T) {
	ring := keys.Generate()
	for _, back := range []bool{false, true} {
		for _, how := range []struct {
			name                    string
			after, fails, powerless bool
		}{
			{"killed before", false, false, false},
			{"killed after", true, false, false},
			{"power cut before", false, false, true},
			{"power cut after", true, false, true},
			{"a call fails", false, true, false},
			{"a call fails late", true, true, false},
		} {
			t.Run(fmt.Sprintf("%s, back %v", how.name, back), func(t *testing.T) {
				for n := 1; ; n++ {
					m := newMachine()
					if back {
						if _, err := asWorker(t, m, ring); err != nil {
							t.Fatal(err)
						}
						m.off()
						m.calls, m.trace = 0, nil
					}
					m.at, m.after, m.fails = n, how.after, how.fails
					_, err := asWorker(t, m, ring)
					if m.calls < n {
						if n < 25 {
							t.Errorf("only %d calls were cut off", n-1)
						}
						return
					}
					if err != nil && how.powerless {
						m.off()
					}
					if _, err := asWorker(t, m, ring); err != nil {
						t.Fatalf("cut off at call %d, %q: the next ticket fails: %v", n, m.trace[n-1], err)
					}
					if finishedWorker(t, m); t.Failed() {
						t.Fatalf("cut off at call %d, %q", n, m.trace[n-1])
					}
				}
			})
		}
	}
}

// TestV14OlderCopyStaysClosed: the witness's words are the failure's.
func TestV14OlderCopyStaysClosed(t *testing.T) {
	m, ring := newMachine(), keys.Generate()
	if _, err := asWorker(t, m, ring); err != nil {
		t.Fatal(err)
	}
	older := m.generation
	m.off()
	if _, err := asWorker(t, m, ring); err != nil {
		t.Fatal(err)
	}
	m.off()
	m.generation, m.next = older, disk.Generation{}
	_, err := asWorker(t, m, ring)
	wantFailure(t, err, api.Step_STEP_DISK, api.Problem_REASON_STEP, "10.77.0.10 refuses: rolled-back: ")
	if m.opened || m.generation != older {
		t.Error("the disk was opened")
	}
}

// TestClusterIsGoneMeanwhile: without a witness the disk stays closed, until the next ticket.
func TestClusterIsGoneMeanwhile(t *testing.T) {
	m, ring := newMachine(), keys.Generate()
	m.ticket = &ticket{offline: true}
	_, err := asWorker(t, m, ring)
	wantFailure(t, err, api.Step_STEP_DISK, api.Problem_REASON_STEP, "10.77.0.10: connection refused")
	if m.opened {
		t.Error("the disk was opened")
	}
	m.ticket.offline = false
	if _, err := asWorker(t, m, ring); err != nil {
		t.Fatal(err)
	}
	finishedWorker(t, m)
}

// TestTicketForAnotherDisk: its key is not tried.
func TestTicketForAnotherDisk(t *testing.T) {
	tried := false
	err := TicketKey{UUID: "a", Key: bytes.Repeat([]byte{1}, disk.KeySize)}.Try(t.Context(), "b", func([]byte, keys.Version) (bool, error) { tried = true; return false, nil })
	if err == nil || tried || !strings.Contains(err.Error(), "the state disk is b, and the ticket is for a") {
		t.Errorf("tried: %v, %v", tried, err)
	}
}
