// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The machines of this test beyond those of TestJoin.
const (
	secondControlPlane = "control-plane-2"
	thirdControlPlane  = "control-plane-3"
	secondWorker       = "worker-2"
)

// How long things may take with five machines on two processors without KVM.
const (
	haDeadline      = 100 * time.Minute
	electedDeadline = 4 * time.Minute // until API server and keys answer without one of three
	oneRequest      = "--request-timeout=20s"
)

// TestHA: of three control planes behind one endpoint one is killed. The API, keys and
// joins stay available, and it comes back by itself, with its data. Then one is removed.
func TestHA(t *testing.T) {
	a := newAdministrator(t)
	a.deadline = haDeadline
	began := time.Now()
	a.must(t, "local", "up", "--control-planes", "3", "--workers", "1", "--timeout", haDeadline.String())
	t.Logf("%6.1f s  up with three control planes and a worker", time.Since(began).Seconds())
	w := a.workload(t)
	control := []string{controlPlane, secondControlPlane, thirdControlPlane}
	w.awaitNodes(t, nil, append([]string{worker}, control...)...)
	for _, node := range control {
		w.deploy(t, node)
	}
	ids := w.wantMembers(t, control...)
	w.keep(t, "before")

	for _, step := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"one is killed", func(t *testing.T) { kill(t, a, w) }},
		{"it comes back by itself", func(t *testing.T) { comeBack(t, a, w, ids) }},
		{"one is removed", func(t *testing.T) { removeOne(t, a, w, ids) }},
	} {
		if !t.Run(step.name, step.do) {
			t.FailNow() // the next has nothing to begin with
		}
	}
	a.must(t, "local", "down")
	a.wantNothing(t)
}

// kill cuts the power of the founder, whom everybody knew first.
func kill(t *testing.T, a *administrator, w *workload) {
	a.must(t, "local", "stop", controlPlane)
	began := time.Now()
	eventually(t, electedDeadline, func(ctx context.Context) error {
		_, err := w.try(ctx, "", "get", "nodes", oneRequest)
		return err
	})
	t.Logf("%6.1f s  until the API answered", time.Since(began).Seconds())
	w.keep(t, "meanwhile")
	t.Logf("%6.1f s  until a Secret was written and read", time.Since(began).Seconds())
	if got := w.kept(t, "before"); got != marker("before") {
		t.Errorf("a Secret of before is %q", got)
	}

	// A machine joins: with a key, a certificate and a name of those that are left.
	began = time.Now()
	a.must(t, "local", "up", "--workers", "2", "--timeout", haDeadline.String())
	t.Logf("%6.1f s  until a new worker was ready", time.Since(began).Seconds())
	nodes, err := w.nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !isReady(nodes[secondWorker]) || isReady(nodes[controlPlane]) {
		t.Errorf("the new worker is ready: %v, and so is who is switched off: %v", isReady(nodes[secondWorker]), isReady(nodes[controlPlane]))
	}

	// Without another one there would be no majority.
	const why = "without it 2 control planes are left, of which 2 must be ready, and 1 are"
	if _, stderr, code := a.run(t, "local", "remove", secondControlPlane); code == 0 || !strings.Contains(stderr, why) {
		t.Errorf("another one is removed: %d\n%s", code, stderr)
	}
}

// comeBack switches it on again.
func comeBack(t *testing.T, a *administrator, w *workload, ids map[string]string) {
	before := w.boots(t)
	began := time.Now()
	if _, stderr := a.must(t, "local", "start", controlPlane); stderr != "" {
		t.Errorf("there is nothing to do about it, and it says %s", stderr)
	}
	w.awaitNodes(t, map[string]string{controlPlane: before[controlPlane]}, controlPlane, secondControlPlane, thirdControlPlane, worker, secondWorker)
	t.Logf("%6.1f s  from power-on to ready again", time.Since(began).Seconds())
	after := w.boots(t)
	for _, node := range []string{secondControlPlane, thirdControlPlane, worker, secondWorker} {
		if after[node] != before[node] {
			t.Errorf("%s booted, too", node)
		}
	}
	w.await(t)
	again := w.wantMembers(t, controlPlane, secondControlPlane, thirdControlPlane)
	if again[controlPlane] != ids[controlPlane] {
		t.Errorf("its etcd is member %s and was %s: it lost its data", again[controlPlane], ids[controlPlane])
	}
	w.read(t, secondControlPlane, w.podAddress(t, controlPlane)+":"+podPort, controlPlane)
}

// removeOne takes one of three away for good.
func removeOne(t *testing.T, a *administrator, w *workload, ids map[string]string) {
	began := time.Now()
	a.must(t, "local", "remove", secondControlPlane)
	t.Logf("%6.1f s  until it was removed", time.Since(began).Seconds())
	w.awaitNodes(t, nil, controlPlane, thirdControlPlane, worker, secondWorker)
	if again := w.wantMembers(t, controlPlane, thirdControlPlane); again[thirdControlPlane] != ids[thirdControlPlane] {
		t.Errorf("the etcd of who stays is member %s and was %s", again[thirdControlPlane], ids[thirdControlPlane])
	}
	for _, object := range []string{"configmaps --namespace=constellation-nodes", "configmap constellation-policy --namespace=kube-system"} {
		if left := w.run(t, append([]string{"get", "--output=yaml"}, strings.Fields(object)...)...); strings.Contains(left, secondControlPlane) {
			t.Errorf("the cluster still knows it:\n%s", left)
		}
	}
	w.keep(t, "after")
	for _, name := range []string{"before", "meanwhile"} {
		if got := w.kept(t, name); got != marker(name) {
			t.Errorf("the Secret %s is %q", name, got)
		}
	}
}

// keep writes a Secret and reads it: its key is wrapped by the node's secrets provider.
func (w *workload) keep(t *testing.T, name string) {
	t.Helper()
	eventually(t, electedDeadline, func(ctx context.Context) error {
		_, err := w.try(ctx, "", "create", "secret", "generic", name, "--from-literal=marker="+marker(name), oneRequest)
		if err != nil && strings.Contains(err.Error(), "already exists") {
			err = nil // an answer was lost
		}
		return err
	})
	if got := w.kept(t, name); got != marker(name) {
		t.Errorf("the Secret %s is %q, want %q", name, got, marker(name))
	}
}

// kept is what a Secret has.
func (w *workload) kept(t *testing.T, name string) (text string) {
	t.Helper()
	eventually(t, electedDeadline, func(ctx context.Context) (err error) {
		text, err = w.try(ctx, "", "get", "secret", name, "--output=go-template={{.data.marker | base64decode}}", oneRequest)
		return err
	})
	return text
}

// wantMembers wants exactly these nodes to be members of etcd, all with a vote and in
// touch with a leader, and returns the members' identities.
func (w *workload) wantMembers(t *testing.T, nodes ...string) map[string]string {
	t.Helper()
	ids := map[string]string{}
	for _, node := range nodes {
		eventually(t, podDeadline, func(ctx context.Context) error {
			text, err := w.etcd(ctx, node, "metrics")
			if err != nil {
				return err
			}
			ids[node] = metric(text, `etcd_server_id{server_id="([0-9a-f]+)"} 1`)
			peers := knownPeers(text, ids[node])
			switch {
			case ids[node] == "":
				return errors.New("etcd does not say who it is")
			case metric(text, `etcd_server_has_leader (.*)`) != "1":
				return fmt.Errorf("the etcd of %s has no leader", node)
			case metric(text, `etcd_server_is_learner (.*)`) != "0":
				return fmt.Errorf("the etcd of %s has no vote", node)
			case peers != len(nodes)-1:
				return fmt.Errorf("the etcd of %s knows %d others, want %d", node, peers, len(nodes)-1)
			}
			_, err = w.etcd(ctx, node, "readyz") // reads what most members have agreed on
			return err
		})
	}
	if all := slices.Compact(slices.Sorted(maps.Values(ids))); len(all) != len(nodes) {
		t.Errorf("members are %v", ids)
	}
	return ids
}

var knownPeer = regexp.MustCompile(`(?m)^etcd_network_known_peers{Local="[0-9a-f]+",Remote="([0-9a-f]+)"} 1$`)

// knownPeers counts the members that etcd knows besides itself.
func knownPeers(metrics, self string) (n int) {
	for _, m := range knownPeer.FindAllStringSubmatch(metrics, -1) {
		if m[1] != self {
			n++
		}
	}
	return n
}

// etcd asks a node's etcd, from the node's own network.
func (w *workload) etcd(ctx context.Context, node, path string) (string, error) {
	return w.try(ctx, "", "exec", "plain-keeper-"+node, "--", "/usr/bin/smoke", "get", "http://127.0.0.1:2381/"+path)
}

// metric is what the first line of that form says.
func metric(text, form string) string {
	m := regexp.MustCompile("(?m)^" + form + "$").FindStringSubmatch(text)
	if m == nil {
		return ""
	}
	return m[1]
}
