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
	"github.com/constellation-os/constellation/measurements"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/journal"
)

// run has a process do all steps of an Init, without waiting for real.
func run(t *testing.T, m *machine, ring *keys.Keyring, request string) (events []*api.Progress, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { events, err = m.run(t.Context(), ring, request) })
	return events, err
}

// outcomes are how each step ended, in order.
func outcomes(events []*api.Progress) string {
	var out []string
	for _, e := range events {
		if e.State == api.Progress_STATE_DONE || e.State == api.Progress_STATE_SKIPPED {
			out = append(out, fmt.Sprintf("%d%c", e.Step, e.State.String()[len("STATE_")]))
		}
	}
	return strings.Join(out, " ")
}

func finished(t *testing.T, m *machine) {
	t.Helper()
	if !m.locked() || !m.mounted || !m.fetched || !m.loaded || !m.units[KubeletService] || !m.finished || !m.applied {
		t.Errorf("the node is not complete: %+v", m)
	}
	for _, wrong := range m.wrong {
		t.Error(wrong)
	}
	if want := (journal.Opened{UUID: m.uuid, Number: m.generation.Number, ID: m.generation.ID, KeyVersion: 1}); m.member != want {
		t.Errorf("the cluster knows %+v, and the machine has %+v", m.member, want)
	}
	if m.formats != 1 {
		t.Errorf("the disk was formatted %d times", m.formats)
	}
}

func TestAllSteps(t *testing.T) {
	m, ring := newMachine(), keys.Generate()
	events, err := run(t, m, ring, "request")
	if err != nil {
		t.Fatal(err)
	}
	finished(t, m)
	if got, want := outcomes(events), "1D 2D 3D 4D 5D 6D 7D 8D 9S"; got != want {
		t.Errorf("the steps ended %s, want %s", got, want)
	}
	content, err := ring.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if m.memory[MasterSecretFile] != string(content) {
		t.Error("KeyService was not given the master secret")
	}
	for _, r := range []*journal.Record{m.boot, m.record} {
		if text := fmt.Sprint(*r); strings.Contains(text, string(content)) {
			t.Errorf("a journal has the master secret: %s", text)
		}
	}

	t.Run("again", func(t *testing.T) {
		events, err := run(t, m, ring, "request")
		if err != nil {
			t.Fatal(err)
		}
		finished(t, m)
		if got, want := outcomes(events), "1S 2S 3S 4S 5S 6S 7S 8S 9S"; got != want {
			t.Errorf("the steps ended %s, want %s", got, want)
		}
	})
	t.Run("after a reboot", func(t *testing.T) {
		m.off()
		events, err := run(t, m, ring, "request")
		if err != nil {
			t.Fatal(err)
		}
		finished(t, m)
		if got, want := outcomes(events), "1D 2D 3S 4D 5D 6D 7D 8D 9S"; got != want {
			t.Errorf("the steps ended %s, want %s", got, want)
		}
	})
}

// TestCutOffAnywhere: whatever the moment at which the bootstrapper is killed, the
// machine loses its power, or a call fails, the same Init finishes the job. (V20)
func TestCutOffAnywhere(t *testing.T) {
	ring := keys.Generate()
	for _, how := range []struct {
		name      string
		after     bool
		fails     bool
		powerless bool
	}{
		{"killed before", false, false, false},
		{"killed after", true, false, false},
		{"power cut before", false, false, true},
		{"power cut after", true, false, true},
		{"a call fails", false, true, false},
		{"a call fails late", true, true, false},
	} {
		t.Run(how.name, func(t *testing.T) {
			n := 1
			for ; ; n++ {
				m := newMachine()
				m.at, m.after, m.fails = n, how.after, how.fails
				_, err := run(t, m, ring, "request")
				if m.calls < n {
					break // everything was cut off once
				}
				if err != nil && how.powerless {
					m.off()
				}
				if _, err := run(t, m, ring, "request"); err != nil {
					t.Fatalf("cut off at call %d, %q: the next Init fails: %v", n, m.trace[n-1], err)
				}
				if finished(t, m); t.Failed() {
					t.Fatalf("cut off at call %d, %q", n, m.trace[n-1])
				}
			}
			if n < 50 {
				t.Errorf("only %d calls were cut off", n-1)
			}
		})
	}
}

// TestCutOffTwice is the same for a second cut in what was to repair the first.
func TestCutOffTwice(t *testing.T) {
	ring := keys.Generate()
	for first := 1; ; first++ {
		for second := 1; ; second++ {
			m := newMachine()
			m.at = first
			_, _ = run(t, m, ring, "request")
			if m.calls < first {
				return
			}
			m.off()
			m.at, m.calls = second, 0
			_, _ = run(t, m, ring, "request")
			ended := m.calls < second
			m.off()
			m.at = 0
			if _, err := run(t, m, ring, "request"); err != nil {
				t.Fatalf("cut off at %d, then at %d: %v", first, second, err)
			}
			if finished(t, m); t.Failed() {
				t.Fatalf("cut off at %d, then at %d", first, second)
			}
			if ended {
				break
			}
		}
	}
}

func wantFailure(t *testing.T, err error, step api.Step, reason api.Problem_Reason, says string) {
	t.Helper()
	var f *Failure
	if !errors.As(err, &f) {
		t.Fatalf("got %v, want a failure", err)
	}
	if f.Step != step || f.Reason != reason || !strings.Contains(f.Error(), says) || f.Advice == "" {
		t.Errorf("got step %v, %v, %q, advice %q; want %v, %v, %q", f.Step, f.Reason, f.Error(), f.Advice, step, reason, says)
	}
}

func TestAnotherClustersMachine(t *testing.T) {
	m, ring := newMachine(), keys.Generate()
	for a, d := range measurements.ClusterDigests([]byte("another cluster's identity")) {
		m.pcr[a] = a.Extend(m.pcr[a], d)
	}
	before := m.pcr[measurements.SHA256].String()
	_, err := run(t, m, ring, "request")
	wantFailure(t, err, api.Step_STEP_LOCK, api.Problem_REASON_OTHER_CLUSTER, "belongs to another cluster")
	if m.pcr[measurements.SHA256].String() != before || m.formats != 0 {
		t.Error("the machine was touched")
	}
}

func TestOneBankOfThisCluster(t *testing.T) {
	m, ring := newMachine(), keys.Generate()
	cluster, _ := ring.ClusterID()
	a := measurements.SHA256
	m.pcr[a] = a.Extend(m.pcr[a], measurements.ClusterDigests(cluster[:])[a])
	_, err := run(t, m, ring, "request")
	wantFailure(t, err, api.Step_STEP_LOCK, api.Problem_REASON_OTHER_CLUSTER, "belongs to another cluster")
}

func TestAnotherClustersDisk(t *testing.T) {
	m, ring := newMachine(), keys.Generate()
	if _, err := run(t, m, keys.Generate(), "request"); err != nil {
		t.Fatal(err)
	}
	m.off()
	_, err := run(t, m, ring, "request")
	wantFailure(t, err, api.Step_STEP_DISK, api.Problem_REASON_OTHER_CLUSTER, "key does not fit the state disk")
}

func TestOtherSettings(t *testing.T) {
	m, ring := newMachine(), keys.Generate()
	if _, err := run(t, m, ring, "request"); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, m, ring, "other"); !errors.Is(err, journal.ErrOther) {
		t.Errorf("the running node: %v", err)
	}
	m.off()
	_, err := run(t, m, ring, "other")
	wantFailure(t, err, api.Step_STEP_DISK, api.Problem_REASON_OTHER_CLUSTER, "with other settings")
}

// TestSettingsCanBeCorrected: until the control plane's files are there, nothing binds.
func TestSettingsCanBeCorrected(t *testing.T) {
	m, ring := newMachine(), keys.Generate()
	for m.at = 1; ; m.at++ {
		*m = machine{at: m.at, kubernetes: map[string]string{}, synced: map[string]string{}}
		m.off()
		_, _ = run(t, m, ring, "with a mistake")
		if last := m.trace[len(m.trace)-1]; last == "start "+KubeadmFilesService {
			break
		}
	}
	if _, err := run(t, m, ring, "corrected"); err != nil {
		t.Fatal(err)
	}
	finished(t, m)
}

func TestRotatedMasterSecretOpensTheDisk(t *testing.T) {
	m, ring := newMachine(), keys.Generate()
	if _, err := run(t, m, ring, "request"); err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Rotate(); err != nil {
		t.Fatal(err)
	}
	m.off()
	if _, err := run(t, m, ring, "request"); err != nil {
		t.Fatal(err)
	}
	finished(t, m)
}

// TestServiceThatDoesNotStart: systemd takes a condition that is not met for a success.
func TestServiceThatDoesNotStart(t *testing.T) {
	m, ring := newMachine(), keys.Generate()
	m.silent = SecretsProviderService
	_, err := run(t, m, ring, "request")
	wantFailure(t, err, api.Step_STEP_SECRETS, api.Problem_REASON_STEP, "secretsprovider.service was started and is inactive, dead")
	m.silent = ""
	if _, err := run(t, m, ring, "request"); err != nil {
		t.Fatal(err)
	}
	finished(t, m)
}

// TestWhyItIsNotThereYet: who waits is told, and what ends the waiting says why.
func TestWhyItIsNotThereYet(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var said []string
	err := wait(ctx, func(detail string, _, _ int64) { said = append(said, detail); cancel() }, func(context.Context) error {
		return errors.New("connection refused")
	})
	if err == nil || err.Error() != "connection refused" || len(said) != 1 {
		t.Errorf("got %v, told %q", err, said)
	}
}
