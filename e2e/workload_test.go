// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/constellation-os/constellation/kubernetes/bundle"
)

// The machines of a cluster with a worker, and where the worker is.
const (
	controlPlane  = "control-plane-1"
	worker        = "worker-1"
	workerAddress = "10.77.0.50"
)

// keeperObjects is a pod on each node that serves what is on the node's disk.
//
//go:embed smoke/keeper.yaml
var keeperObjects string

const (
	podPort  = "8080" // of keepers
	nodePort = "8081" // of keepers on the node's own network
)

// How long things may take on two busy processors without KVM.
const (
	nodeDeadline = 12 * time.Minute
	podDeadline  = 8 * time.Minute
)

// workload is a user's pods on several nodes.
type workload struct {
	*kubectl
	image string
}

// workload is what the administrator's users have of the cluster.
func (a *administrator) workload(t *testing.T) *workload {
	t.Helper()
	b, err := bundle.Open(os.Getenv(localClusterEnv))
	if err != nil {
		t.Fatal(err)
	}
	return &workload{&kubectl{filepath.Join(a.dir, "constellation-kubeconfig"), a.home}, b.Set().References()["smoke"]}
}

// deploy starts the keepers of a node, and gives it something to keep.
func (w *workload) deploy(t *testing.T, node string) {
	t.Helper()
	objects := strings.NewReplacer("IMAGE", w.image, "NODE", node).Replace(keeperObjects)
	eventually(t, podDeadline, func(ctx context.Context) error { // until their account is there
		_, err := w.try(ctx, objects, "apply", "--server-side", "--filename=-")
		return err
	})
	w.await(t)
	w.run(t, "exec", "keeper-"+node, "--", "/usr/bin/smoke", "write", "/kept/file", marker(node))
}

// marker is a text that is found nowhere else.
func marker(of string) string { return "this-is-what-" + of + "-keeps" }

// await waits until everything in the cluster runs. Pods that lost their node may show as
// running for a while: who reads from them waits, too.
func (w *workload) await(t *testing.T) {
	t.Helper()
	eventually(t, podDeadline, func(ctx context.Context) error {
		text, err := w.try(ctx, "", "get", "pods", "--all-namespaces", "--output=json")
		if err != nil {
			return err
		}
		var list corev1.PodList
		if err := json.Unmarshal([]byte(text), &list); err != nil {
			return err
		}
		for _, p := range list.Items {
			if p.Status.Phase != corev1.PodRunning {
				return fmt.Errorf("%s/%s is %s %s", p.Namespace, p.Name, p.Status.Phase, p.Status.Message)
			}
			for _, s := range p.Status.ContainerStatuses {
				if !s.Ready {
					return fmt.Errorf("%s/%s is not ready", p.Namespace, p.Name)
				}
			}
		}
		return nil
	})
}

// expectData has the keeper of another node read what a node keeps.
func (w *workload) expectData(t *testing.T, node string) {
	t.Helper()
	w.await(t)
	w.read(t, other(node), w.podAddress(t, node)+":"+podPort, node)
}

// read has the keeper of one node read from HOST:PORT what another keeps.
func (w *workload) read(t *testing.T, on, from, node string) {
	t.Helper()
	eventually(t, podDeadline, func(ctx context.Context) error {
		got, err := w.try(ctx, "", "exec", "keeper-"+on, "--", "/usr/bin/smoke", "get", "http://"+from+"/file")
		if err == nil && got != marker(node) {
			err = fmt.Errorf("%s keeps %q, want %q", node, got, marker(node))
		}
		return err
	})
}

func (w *workload) podAddress(t *testing.T, node string) string {
	t.Helper()
	return w.run(t, "get", "pod", "keeper-"+node, "--output=jsonpath={.status.podIP}")
}

func other(node string) string {
	return map[string]string{controlPlane: worker, worker: controlPlane}[node]
}

// nodes are the cluster's, by name.
func (w *workload) nodes(ctx context.Context) (map[string]corev1.Node, error) {
	text, err := w.try(ctx, "", "get", "nodes", "--output=json")
	if err != nil {
		return nil, err
	}
	var list corev1.NodeList
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, err
	}
	there := map[string]corev1.Node{}
	for _, n := range list.Items {
		there[n.Name] = n
	}
	return there, nil
}

// awaitNodes waits until exactly these nodes are there and ready, after another boot than
// the one that is named.
func (w *workload) awaitNodes(t *testing.T, otherBoots map[string]string, names ...string) {
	t.Helper()
	eventually(t, nodeDeadline, func(ctx context.Context) error {
		there, err := w.nodes(ctx)
		if err != nil {
			return err
		}
		for _, name := range names {
			n, ok := there[name]
			switch {
			case !ok:
				return fmt.Errorf("there is no node %s", name)
			case n.Status.NodeInfo.BootID == otherBoots[name]:
				return fmt.Errorf("%s has not been heard of since it booted", name)
			case !isReady(n):
				return fmt.Errorf("%s is not ready", name)
			}
		}
		if len(there) != len(names) {
			return fmt.Errorf("%d nodes, want %d", len(there), len(names))
		}
		return nil
	})
}

func isReady(n corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// boots names the last boot of each node.
func (w *workload) boots(t *testing.T) map[string]string {
	t.Helper()
	there, err := w.nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for name, n := range there {
		out[name] = n.Status.NodeInfo.BootID
	}
	return out
}

// eventually waits until nothing is lacking any more, and shows what was.
func eventually(t *testing.T, deadline time.Duration, lacks func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	last := errors.New("nothing was found out")
	for ctx.Err() == nil {
		err := lacks(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil && last.Error() != err.Error() {
			t.Logf("waiting: %v", err)
			last = err
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	t.Fatalf("after %v: %v", deadline, last)
}
