// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/constellation-os/constellation/cli/cluster"
	clikeys "github.com/constellation-os/constellation/cli/keys"
	"github.com/constellation-os/constellation/cli/local/supervisor"
	"github.com/constellation-os/constellation/measurements"
)

// verification is what "constellation verify" says, as JSON.
type verification struct {
	Verdict string
	Nodes   []struct {
		Name, Verdict, Reason, Detail string
		Image                         *measurements.Image
		Claims                        *struct{ Grant *struct{ Name, Role string } }
		Comparison                    struct {
			Findings []struct {
				Fails bool
				Event string
			}
		}
	}
}

// verifies wants every node of the cluster to prove itself, and to be refused by who
// expects another image, of which one event differs.
func verifies(t *testing.T, a *administrator, nodes ...string) {
	at := func(name string) string { return filepath.Join(a.dir, name) }
	mine, other := at("measurements.json"), filepath.Join(t.TempDir(), "other.json")
	policy := filepath.Join(t.TempDir(), "other-policy.json")
	verify := func(policy, measurements string, want int) (v verification) {
		t.Helper()
		stdout, stderr, code := a.run(t, "verify", "--policy", policy, "--master-secret", at(clikeys.DefaultFile), "--kubeconfig", at(cluster.DefaultKubeconfig),
			"--measurements", measurements, "--timeout", "2m", "--output", "json")
		if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != want {
			t.Fatalf("verify ended with %d, %v, want %d\n%s\n%s", code, err, want, stdout, stderr)
		}
		var names []string
		for _, n := range v.Nodes {
			names = append(names, n.Name)
		}
		if slices.Sort(names); !slices.Equal(names, nodes) {
			t.Errorf("it asked %v, want %v", names, nodes)
		}
		return v
	}

	for _, n := range verify(at(cluster.DefaultPolicy), mine, 0).Nodes {
		if n.Verdict != "verified" || n.Image == nil || n.Claims == nil {
			t.Errorf("%+v", n)
		}
	}
	const event = "kernel command line"
	otherImage(t, mine, other, event)
	a.must(t, "policy", "create", policy, "--measurements", other, "--not-after", "2099-01-01", "--authority", at(supervisor.AuthorityFile), "--first-come", "worker")
	for _, n := range verify(policy, other, 1).Nodes {
		var differ []string
		for _, f := range n.Comparison.Findings {
			if f.Fails {
				differ = append(differ, f.Event)
			}
		}
		if n.Verdict != "refused" || n.Reason != "measurements" || !slices.Equal(differ, []string{event}) {
			t.Errorf("by who expects another command line, %s is %s for %s: %q differ", n.Name, n.Verdict, n.Reason, differ)
		}
	}
	if stdout, stderr, code := a.run(t, "policy", "apply", policy, "--master-secret", at(clikeys.DefaultFile), "--kubeconfig", at(cluster.DefaultKubeconfig)); code != 1 {
		t.Errorf("a policy by which all nodes fall out: %d\n%s\n%s", code, stdout, stderr)
	}
	a.must(t, "policy", "apply", at(cluster.DefaultPolicy), "--master-secret", at(clikeys.DefaultFile), "--kubeconfig", at(cluster.DefaultKubeconfig))
}

// otherImage writes the measurements of an image that is the same but for one event.
func otherImage(t *testing.T, from, to, event string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	p, err := measurements.ParsePrediction(data)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(p.Events, func(e measurements.Event) bool { return e.Description == event })
	if i < 0 {
		t.Fatalf("the image's measurements have no %q", event)
	}
	for algorithm, digest := range p.Events[i].Digests {
		p.Events[i].Digests[algorithm] = bytes.Repeat([]byte{digest[0] ^ 1}, len(digest))
	}
	p.PCRs = p.Replay()
	if data, err = p.JSON(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
