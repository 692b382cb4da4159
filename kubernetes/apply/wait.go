// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// interval is that at which Wait looks.
const interval = time.Second

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

// missing is what is not ready, each with its reason.
func (c *client) missing(ctx context.Context, workloads []*unstructured.Unstructured, here Here) ([]string, error) {
	var all []string
	for _, find := range []func(context.Context, []*unstructured.Unstructured, Here) (string, error){c.node, c.static} {
		reason, err := find(ctx, workloads, here)
		if err != nil {
			return nil, err
		}
		if reason != "" {
			all = append(all, reason)
		}
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
		lacks, err := c.lacks(ctx, live, state, here)
		if err != nil {
			return nil, err
		}
		if lacks != "" {
			all = append(all, name(w)+": "+lacks)
		}
	}
	return all, nil
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
func (c *client) node(ctx context.Context, _ []*unstructured.Unstructured, here Here) (string, error) {
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
