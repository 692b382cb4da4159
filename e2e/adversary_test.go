// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
	corev1 "k8s.io/api/core/v1"

	"github.com/constellation-os/constellation/attestation/swtpmtest"
	"github.com/constellation-os/constellation/cli/local/supervisor"
	"github.com/constellation-os/constellation/e2e/adversarytest"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/services/bootstrapper/join"
)

// adversary has the network, the disks and the TPMs of a cluster of real machines: the
// host is his. What he does to the machines' memory no test shows.
type adversary struct {
	*administrator
	*workload
	cluster *adversarytest.Cluster
	folder  supervisor.Dir
	spec    *supervisor.Spec
}

// TestAdversary: attacks on a cluster of one control plane and a worker that has joined, the
// ones that need no machine of their own first. Each wants the exact reason, where it was
// refused and in JoinService's audit log.
func TestAdversary(t *testing.T) {
	a := newAdversary(t)
	for _, attack := range []struct {
		name string
		run  func(*testing.T, *adversarytest.Cluster)
	}{
		{"another image in its log", adversarytest.AnotherImage},
		{"another command line in its log", adversarytest.AnotherCommandLine},
		{"V7 another machine's TPM", adversarytest.AnotherTPM},
		{"V19 a machine of another cluster", adversarytest.AnotherCluster},
		{"V4 replayed evidence", adversarytest.Replayed},
		{"V3 relayed evidence", adversarytest.Relayed},
		{"V17 files of the control plane", adversarytest.ControlPlaneFiles},
		{"V17 another's name", adversarytest.AnothersName},
		{"V17 another's disk", adversarytest.AnothersDisk},
		{"V17 a worker that was admitted", adversarytest.Worker},
		{"V19 a false JoinService", adversarytest.FalseServices},
	} {
		t.Run(attack.name, func(t *testing.T) { attack.run(t, a.cluster) })
	}
	t.Run("V18 a pod asks KeyService", a.pods)

	// One more machine takes the worker's place: two processors do not bear three machines.
	t.Run("V19 a machine in a false network", a.falseWay)
	t.Run("a machine with another command line", a.tampered)
	t.Run("a machine with another image", a.debugImage)
	t.Run("V7 a machine with a TPM by another authority", a.foreignTPM)
	t.Run("a machine whose clock is a year ahead", a.ahead)
	t.Run("a machine whose clock is a year behind", a.behind)

	t.Run("V14 the worker's state disk", a.stateDisk)
	t.Run("V20 JoinService is killed in mid-join", a.killed)
	t.Run("the control plane is cut off from its API server", a.cutOff)
	a.must(t, "local", "down")
	a.wantNothing(t)
}

// newAdversary makes the cluster.
func newAdversary(t *testing.T) *adversary {
	t.Helper()
	a := &adversary{administrator: newAdministrator(t)}
	began := time.Now()
	a.must(t, "local", "up", "--workers", "1")
	t.Logf("%6.1f s  up with a worker", time.Since(began).Seconds())
	a.workload, a.folder = a.administrator.workload(t), supervisor.Dir(a.dir)
	a.awaitNodes(t, nil, controlPlane, worker)
	var err error
	if a.spec, err = a.folder.Spec(); err != nil {
		t.Fatal(err)
	}
	image, err := measurements.ParsePrediction(read(t, filepath.Join(a.dir, "measurements.json")))
	if err != nil {
		t.Fatal(err)
	}
	ring, err := keys.Load(filepath.Join(a.dir, "constellation-master-secret.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Wipe()
	id, err := ring.ClusterID()
	if err != nil {
		t.Fatal(err)
	}
	client := supervisor.NewClient(a.folder)
	a.cluster = &adversarytest.Cluster{
		ID: id, Policy: a.spec.Cluster.Policy, Image: image, Authority: swtpmtest.AuthorityAt(t, a.folder.AuthorityFolder()),
		Dial: func(ctx context.Context) (net.Conn, error) { return client.Dial(ctx, controlPlane, join.Port) },
		WorkerTPM: func(t testing.TB) transport.TPM {
			return swtpmtest.Copy(t, filepath.Join(a.folder.MachineFolder(worker), "tpm"))
		},
		Nodes: func(t testing.TB) []string { return a.bound(t, "name") },
		Audit: a.follow(t, "joinservice"),
	}
	for n, name := range map[*adversarytest.Node]string{&a.cluster.ControlPlane: controlPlane, &a.cluster.Worker: worker} {
		*n = adversarytest.Node{Name: name, Disk: a.diskOf(t, name)}
	}
	a.cluster.Audit.Await(t, 0, adversarytest.Record{"msg": "join-ticket", "verdict": "granted", "name": worker})
	return a
}

// auditDelay is how long a line takes at most from a service by way of kubelet and API
// server, while machines boot; and what comes before it.
const auditDelay = 6 * time.Minute

// follow reads the log of a service's pod until the test ends, and that of the pod in its
// place if it was killed.
func (a *adversary) follow(t *testing.T, service string) *adversarytest.Log {
	t.Helper()
	log := &adversarytest.Log{Patience: auditDelay}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			cmd := exec.CommandContext(ctx, os.Getenv(kubectlEnv))
			cmd.Args = []string{"kubectl", "logs", "--follow", "--namespace=kube-system", "daemonset/" + service}
			cmd.Env = []string{"KUBECONFIG=" + a.kubeconfig, "HOME=" + a.home}
			cmd.Stdout = log
			_ = cmd.Run() // there is no pod, or no API server, for a while
			log.Cut()
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return log
}

// bindings are what the cluster knows of its nodes.
func (a *adversary) bindings(t testing.TB) (nodes []corev1.ConfigMap) {
	t.Helper()
	var list corev1.ConfigMapList
	ctx, cancel := context.WithTimeout(t.Context(), auditDelay)
	defer cancel()
	text, err := a.try(ctx, "", "get", "configmaps", "--namespace=constellation-nodes", "--output=json")
	if err == nil {
		err = json.Unmarshal([]byte(text), &list)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list.Items {
		if strings.HasPrefix(m.Name, "node-") {
			nodes = append(nodes, m)
		}
	}
	return nodes
}

// bound is a field of each of them.
func (a *adversary) bound(t testing.TB, field string) (values []string) {
	t.Helper()
	for _, n := range a.bindings(t) {
		values = append(values, n.Data[field])
	}
	slices.Sort(values)
	return values
}

func (a *adversary) diskOf(t testing.TB, name string) string {
	t.Helper()
	for _, n := range a.bindings(t) {
		if n.Data["name"] == name {
			return n.Data["disk"]
		}
	}
	t.Fatalf("the cluster knows no node %s", name)
	return ""
}

// power switches the worker on or cuts its power, unless it is so.
func (a *adversary) power(t *testing.T, on bool) {
	t.Helper()
	s, err := supervisor.NewClient(a.folder).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range s.Machines {
		switch off := m.State == supervisor.StateStopped; {
		case m.Name != worker:
		case on && off:
			a.must(t, "local", "start", worker)
		case !on && !off:
			a.must(t, "local", "stop", worker)
		}
	}
}
