// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/constellation-os/constellation/cli/cluster"
)

const recoverPageEnv = "CONSTELLATION_RECOVER_PAGE"

// TestJoin: a worker joins, comes back by itself after a reboot, and after a power cut of
// all machines the owner brings the cluster back with its data. The commands are those of
// docs/getting-started.md ("Several machines") and docs/recover.md.
func TestJoin(t *testing.T) {
	a := newAdministrator(t)
	make, remove := pageBlocks(t, pageEnv, "## Several machines", 3), 2
	began := time.Now()
	a.shell(t, make[0])
	t.Logf("%6.1f s  up with a worker", time.Since(began).Seconds())
	w := a.workload(t)
	w.awaitNodes(t, nil, controlPlane, worker)
	if got := w.run(t, "get", "node", controlPlane, "--output=jsonpath={.spec.taints[*].effect}"); !strings.Contains(got, "NoSchedule") {
		t.Errorf("everybody's pods may run on the control plane, and there is a worker: its taints are %q", got)
	}

	// Data: in etcd, and on the disk of each node.
	w.run(t, "create", "configmap", "kept", "--from-literal=marker="+marker("etcd"))
	w.deploy(t, controlPlane)
	w.deploy(t, worker)
	t.Run("every node proves what it runs", func(t *testing.T) { verifies(t, a, controlPlane, worker) })
	t.Run("pods of different nodes talk, and nobody understands them", func(t *testing.T) { encrypted(t, a, w) })
	t.Run("the worker reboots", func(t *testing.T) { reboot(t, a, w) })
	t.Run("the power fails everywhere", func(t *testing.T) { outage(t, a, w) })
	t.Run("the worker is removed", func(t *testing.T) {
		a.shell(t, make[remove])
		if left := w.run(t, "get", "configmaps", "--namespace=constellation-nodes", "--output=yaml"); strings.Contains(left, worker) {
			t.Errorf("the cluster still knows it:\n%s", left)
		}
		w.awaitNodes(t, nil, controlPlane)
	})
	a.must(t, "local", "down")
	a.wantNothing(t)
}

// reboot cuts the worker's power, and wants it to come back by itself.
func reboot(t *testing.T, a *administrator, w *workload) {
	before := w.boots(t)
	a.must(t, "local", "stop", worker)
	began := time.Now()
	a.must(t, "local", "start", worker)
	w.awaitNodes(t, map[string]string{worker: before[worker]}, controlPlane, worker)
	t.Logf("%6.1f s  from power-on to ready again", time.Since(began).Seconds())
	if after := w.boots(t); after[controlPlane] != before[controlPlane] {
		t.Error("the control plane booted, too")
	}
	w.expectData(t, worker)
}

// outage cuts the power of all machines, and does what docs/recover.md says.
func outage(t *testing.T, a *administrator, w *workload) {
	before := w.boots(t)
	blocks := pageBlocks(t, recoverPageEnv, "## On this computer", 2)
	a.must(t, "local", "stop", worker)
	a.must(t, "local", "stop", controlPlane)
	began := time.Now()
	if said := a.shell(t, blocks[0]); !strings.Contains(said, "constellation recover --dir") {
		t.Errorf("nothing says how the cluster comes back: %q", said)
	}
	if said := a.shell(t, blocks[1]); !strings.Contains(said, controlPlane+" is back") {
		t.Errorf("it says %q", said)
	}
	t.Logf("%6.1f s  from power-on to the control plane's return", time.Since(began).Seconds())
	w.awaitNodes(t, before, controlPlane, worker)
	t.Logf("%6.1f s  from power-on to all nodes ready", time.Since(began).Seconds())
	if got := w.run(t, "get", "configmap", "kept", "--output=jsonpath={.data.marker}"); got != marker("etcd") {
		t.Errorf("etcd has %q, want %q", got, marker("etcd"))
	}
	w.expectData(t, controlPlane)
	w.expectData(t, worker)

	stdout, _ := a.must(t, "recover", "--dir", a.dir, "--output", "json")
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	var last struct{ Result cluster.Recovered }
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
		t.Fatal(err)
	}
	want := []cluster.RecoveredNode{{Name: controlPlane, Outcome: cluster.OutcomeMember}}
	if got := last.Result.Nodes; !slices.EqualFunc(got, want, func(a, b cluster.RecoveredNode) bool { return a.Name == b.Name && a.Outcome == b.Outcome }) {
		t.Errorf("asked for once more, it became of them %+v", got)
	}
}

// pageBlocks are the blocks of commands in a section of a page.
func pageBlocks(t *testing.T, env, heading string, want int) (blocks []string) {
	t.Helper()
	if err := resolve(env); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(os.Getenv(env))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(page), "\n"+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, m := range regexp.MustCompile("(?s)\n```sh\n(.*?)\n```\n").FindAllStringSubmatch(section, -1) {
		blocks = append(blocks, m[1])
	}
	if !found || len(blocks) != want {
		t.Fatalf("%d blocks of commands under %q, want %d", len(blocks), heading, want)
	}
	return blocks
}
