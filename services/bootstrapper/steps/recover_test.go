// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/measurements"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// again has a process do all steps of a Recover.
func again(t *testing.T, m *machine, ring *keys.Keyring) (events []*api.Progress, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { events, err = m.recover(t.Context(), ring) })
	return events, err
}

// node is a machine that is one, after a power cut.
func node(t *testing.T, ring *keys.Keyring) *machine {
	t.Helper()
	m := newMachine()
	if _, err := run(t, m, ring, "request"); err != nil {
		t.Fatal(err)
	}
	m.off()
	m.calls, m.trace = 0, nil
	return m
}

func TestRecover(t *testing.T) {
	ring := keys.Generate()
	m := node(t, ring)
	events, err := again(t, m, ring)
	if err != nil {
		t.Fatal(err)
	}
	finished(t, m)
	if got, want := outcomes(events), "1D 2D 3S 4D 5D 6D 7D 8D 9S"; got != want {
		t.Errorf("the steps ended %s, want %s", got, want)
	}
	if m.made != 1 || m.boot.Node != "node" || m.boot.Request != "" && m.boot.Request != "request" {
		t.Errorf("kubeadm ran %d times, the journal is %+v", m.made, m.boot)
	}
	if events, err = again(t, m, ring); err != nil || outcomes(events) != "1S 2S 3S 4S 5S 6S 7S 8S 9S" {
		t.Errorf("again: %s, %v", outcomes(events), err)
	}
}

// TestRecoverIsCutOffAnywhere: the same Recover, or the Init of then, finishes the job. (V20)
func TestRecoverIsCutOffAnywhere(t *testing.T) {
	ring := keys.Generate()
	for _, how := range []struct {
		name                    string
		after, fails, powerless bool
	}{
		{"killed before", false, false, false},
		{"killed after", true, false, false},
		{"power cut before", false, false, true},
		{"power cut after", true, false, true},
		{"a call fails", false, true, false},
	} {
		t.Run(how.name, func(t *testing.T) {
			for n := 1; ; n++ {
				m := node(t, ring)
				m.at, m.after, m.fails = n, how.after, how.fails
				_, err := again(t, m, ring)
				if m.calls < n {
					if n < 40 {
						t.Errorf("only %d calls were cut off", n-1)
					}
					return
				}
				if err != nil && how.powerless {
					m.off()
				}
				if n%2 == 0 {
					_, err = again(t, m, ring)
				} else {
					_, err = run(t, m, ring, "request")
				}
				if err != nil {
					t.Fatalf("cut off at call %d, %q: the next attempt fails: %v", n, m.trace[n-1], err)
				}
				if finished(t, m); t.Failed() {
					t.Fatalf("cut off at call %d, %q", n, m.trace[n-1])
				}
			}
		})
	}
}

// TestInitIsFinishedByRecover: from the moment on at which the disk has the node's record.
func TestInitIsFinishedByRecover(t *testing.T) {
	ring := keys.Generate()
	finishedOnes := 0
	for n := 1; ; n++ {
		m := newMachine()
		m.at = n
		_, _ = run(t, m, ring, "request")
		if m.calls < n {
			break
		}
		m.off()
		recorded, fresh := m.node != "", m.uuid == ""
		_, err := again(t, m, ring)
		switch {
		case recorded:
			if err != nil {
				t.Fatalf("cut off at call %d: %v", n, err)
			}
			finishedOnes++
			finished(t, m)
		case fresh:
			wantFailure(t, err, api.Step_STEP_DISK, api.Problem_REASON_STEP, "the state disk is blank")
		default:
			wantFailure(t, err, api.Step_STEP_DISK, api.Problem_REASON_STEP, "no record of a node")
		}
	}
	if finishedOnes < 20 {
		t.Errorf("only %d were finished", finishedOnes)
	}
}

// TestRecoverByAnother: another cluster's master secret leaves the machine nobody's, so
// that the right one can follow.
func TestRecoverByAnother(t *testing.T) {
	ring := keys.Generate()
	m := node(t, ring)
	_, err := again(t, m, keys.Generate())
	wantFailure(t, err, api.Step_STEP_LOCK, api.Problem_REASON_OTHER_CLUSTER, "key does not fit the state disk")
	if m.locked() {
		t.Error("PCR 15 was extended")
	}
	if _, err := again(t, m, ring); err != nil {
		t.Fatal(err)
	}
	finished(t, m)
}

// TestRecoverAfterRotation: versions of the master secret may have come since.
func TestRecoverAfterRotation(t *testing.T) {
	ring := keys.Generate()
	m := node(t, ring)
	if _, err := ring.Rotate(); err != nil {
		t.Fatal(err)
	}
	if _, err := again(t, m, ring); err != nil {
		t.Fatal(err)
	}
	finished(t, m)
}

// TestRecoverOfALockedMachine: one that is another cluster's since it booted stays that.
func TestRecoverOfALockedMachine(t *testing.T) {
	ring := keys.Generate()
	m := node(t, ring)
	for a, d := range measurements.ClusterDigests([]byte("another cluster's identity")) {
		m.pcr[a] = a.Extend(m.pcr[a], d)
	}
	_, err := again(t, m, ring)
	wantFailure(t, err, api.Step_STEP_LOCK, api.Problem_REASON_OTHER_CLUSTER, "belongs to another cluster")
	if strings.Contains(strings.Join(m.trace, " "), "open the disk") {
		t.Error("the disk was opened")
	}
}
