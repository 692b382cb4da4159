// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// interval is that at which Wait looks.
const interval = time.Second

// Wait waits until every node is ready, and of each DaemonSet and Deployment among
// the objects every pod that there should be, in the version that was applied last.
// A DaemonSet without any node to run on is not ready.
//
// progress, which may be nil, is told what is not ready and why: a pod's container
// that cannot start, a volume that cannot be mounted, a node without a network. If
// the context ends, so does the error, with context.Cause.
func Wait(ctx context.Context, config *rest.Config, objects []*unstructured.Unstructured, progress func(Progress)) error {
	c, err := newClient(config)
	if err != nil {
		return err
	}
	var workloads []*unstructured.Unstructured
	for _, o := range sorted(objects) {
		if o.GetKind() == "DaemonSet" || o.GetKind() == "Deployment" {
			workloads = append(workloads, o)
		}
	}
	total := len(workloads) + 1
	tell := teller(progress)
	for {
		var missing []string
		err := retry(ctx, func() (err error) {
			missing, err = c.missing(ctx, workloads)
			return err
		}, func(err error) { tell(Progress{0, total, err.Error()}) })
		if err != nil {
			return fmt.Errorf("wait for the cluster: %w", err)
		}
		if len(missing) == 0 {
			tell(Progress{total, total, "everything is ready"})
			return nil
		}
		tell(Progress{total - len(missing), total, strings.Join(missing, "; ")})
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the cluster: %w: %s", context.Cause(ctx), strings.Join(missing, "; "))
		case <-time.After(interval):
		}
	}
}

// missing is what is not ready, each with its reason. Nodes come first: of a node
// that appears later, the workloads could not know.
func (c *client) missing(ctx context.Context, workloads []*unstructured.Unstructured) ([]string, error) {
	var all []string
	reason, err := c.nodes(ctx)
	if err != nil {
		return nil, err
	}
	if reason != "" {
		all = append(all, reason)
	}
	for _, w := range workloads {
		r, err := c.resource(ctx, w.GroupVersionKind(), w.GetNamespace())
		if err != nil {
			return nil, err
		}
		live, err := r.Get(ctx, w.GetName(), metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name(w), err)
		}
		state, err := parseWorkload(live)
		if err != nil {
			return nil, err
		}
		if state.ready() {
			continue
		}
		why, err := c.explain(ctx, live)
		if err != nil {
			return nil, err
		}
		all = append(all, fmt.Sprintf("%s: %s%s", name(w), state, why))
	}
	return all, nil
}

type condition struct {
	Type, Status, Reason, Message string
}

type node struct {
	Metadata struct{ Name string }
	Status   struct{ Conditions []condition }
}

// nodes says which node is not ready and why, or nothing.
func (c *client) nodes(ctx context.Context) (string, error) {
	list, err := c.Resource(schema.GroupVersionResource{Version: "v1", Resource: "nodes"}).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", fmt.Errorf("nodes: %w", err)
	}
	var bad []string
	for _, item := range list.Items {
		var n node
		if err := convert(&item, &n); err != nil {
			return "", err
		}
		if reason := n.problem(); reason != "" {
			bad = append(bad, fmt.Sprintf("node %s is not ready: %s", item.GetName(), reason))
		}
	}
	if len(list.Items) == 0 {
		return "no node has joined", nil
	}
	return strings.Join(bad, ", "), nil
}

func (n *node) problem() string {
	for _, c := range n.Status.Conditions {
		switch {
		case c.Type == "Ready" && c.Status == "True":
			return ""
		case c.Type == "Ready":
			return short(c.Reason, c.Message)
		}
	}
	return "kubelet has not reported yet"
}

// convert reads the few fields that are needed of an object.
func convert(o *unstructured.Unstructured, to any) error {
	data, err := json.Marshal(o.Object)
	if err == nil {
		err = json.Unmarshal(data, to)
	}
	if err != nil {
		return fmt.Errorf("%s is not as expected: %w", name(o), err)
	}
	return nil
}

// maxText bounds what a reason quotes: it goes to terminals and logs.
const maxText = 300

// short joins what is not empty, in one line.
func short(parts ...string) string {
	var some []string
	for _, p := range parts {
		if p = strings.Join(strings.Fields(p), " "); p != "" {
			some = append(some, p)
		}
	}
	text := []rune(strings.Join(some, ": "))
	if len(text) > maxText {
		return string(text[:maxText]) + "…"
	}
	return string(text)
}
