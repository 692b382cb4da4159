// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// interval is that at which Wait looks. Looking is work for an API server that has much
// to do while a cluster begins.
const interval = 3 * time.Second

// Here is the node that Wait is concerned with.
type Here struct {
	Node string // its name
	// Booted is when it did, by its clock: what kubelet has said before does not count, and
	// containers that were started before are gone, whatever their pods' status says. The zero
	// time for none.
	Booted time.Time
}

// Wait waits until a node is ready, and on it of each DaemonSet and Deployment among
// the objects every pod that there should be, in the version that was applied last, and
// the node's static pods in the same namespaces. A DaemonSet has to have a pod on the
// node, a Deployment has to have one somewhere. Other nodes may be as they are.
//
// After a reboot the API server remembers pods as they were before, ready: only what
// was started and said since then counts.
//
// progress, which may be nil, is told what is not ready and why: a pod's container
// that cannot start, a volume that cannot be mounted, a node without a network. If
// the context ends, so does the error, with context.Cause.
func Wait(ctx context.Context, config *rest.Config, objects []*unstructured.Unstructured, here Here, progress func(Progress)) error {
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
	total := len(workloads) + 2 // the node, and its static pods
	tell := teller(progress)
	for {
		var missing []string
		err := retry(ctx, func() (err error) {
			missing, err = c.missing(ctx, workloads, here)
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

// missing is what is not ready, each with its reason. Each kind is asked for once.
func (c *client) missing(ctx context.Context, workloads []*unstructured.Unstructured, here Here) ([]string, error) {
	reason, err := c.node(ctx, here)
	if err != nil {
		return nil, err
	}
	pods, err := c.podsOn(ctx, workloads, here)
	if err != nil {
		return nil, err
	}
	all := []string{reason, pods.static(here)}
	live := map[string]map[string]*unstructured.Unstructured{}
	for _, w := range workloads {
		kind := w.GetKind() + " " + w.GetNamespace()
		if live[kind] == nil {
			if live[kind], err = c.list(ctx, w); err != nil {
				return nil, err
			}
		}
		found := live[kind][w.GetName()]
		if found == nil {
			all = append(all, name(w)+": is not there")
			continue
		}
		lacks, err := c.lacks(ctx, found, pods, here)
		if err != nil {
			return nil, err
		}
		if lacks != "" {
			all = append(all, name(w)+": "+lacks)
		}
	}
	return slices.DeleteFunc(all, func(s string) bool { return s == "" }), nil
}

// list returns what there is of a workload's kind in its namespace, by name.
func (c *client) list(ctx context.Context, w *unstructured.Unstructured) (map[string]*unstructured.Unstructured, error) {
	r, err := c.resource(ctx, w.GroupVersionKind(), w.GetNamespace())
	if err != nil {
		return nil, err
	}
	found, err := r.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("%s in %s: %w", w.GetKind(), w.GetNamespace(), err)
	}
	out := map[string]*unstructured.Unstructured{}
	for i := range found.Items {
		out[found.Items[i].GetName()] = &found.Items[i]
	}
	return out, nil
}

type condition struct {
	Type, Status, Reason, Message string
}

type node struct {
	Status struct {
		Conditions []struct {
			condition
			LastHeartbeatTime time.Time
		}
	}
}

// node says why the node is not ready, or nothing.
func (c *client) node(ctx context.Context, here Here) (string, error) {
	live, err := c.Resource(schema.GroupVersionResource{Version: "v1", Resource: "nodes"}).Get(ctx, here.Node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return fmt.Sprintf("node %s has not joined", here.Node), nil
	}
	if err != nil {
		return "", fmt.Errorf("node %s: %w", here.Node, err)
	}
	var n node
	if err := convert(live, &n); err != nil {
		return "", err
	}
	if reason := n.problem(here.Booted); reason != "" {
		return fmt.Sprintf("node %s is not ready: %s", here.Node, reason), nil
	}
	return "", nil
}

func (n *node) problem(booted time.Time) string {
	for _, c := range n.Status.Conditions {
		switch {
		case c.Type == "Ready" && c.LastHeartbeatTime.Before(booted):
			return "kubelet has not reported since it booted"
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
