// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// workload is how far a DaemonSet or a Deployment is.
type workload struct {
	observed                        bool // its controller has seen what was applied last
	wanted, updated, old, available int64
	problem                         string // the controller's own
}

// lacks is what its controller knows to be missing, or nothing. How many pods other
// nodes have is not asked: they may be off.
func (w workload) lacks() string {
	switch {
	case !w.observed:
		return "not taken up yet"
	case w.wanted == 0:
		return "no pod is wanted"
	case w.available == 0:
		return short(fmt.Sprintf("0 of %d pods available", w.wanted), w.problem)
	case w.updated != w.wanted:
		return fmt.Sprintf("%d of %d pods updated", w.updated, w.wanted)
	case w.old != 0:
		return fmt.Sprintf("old pods still run: %d", w.old)
	}
	return ""
}

func parseWorkload(o *unstructured.Unstructured) (workload, error) {
	var v struct {
		Metadata struct{ Generation int64 }
		Spec     struct{ Replicas *int64 }
		Status   struct {
			ObservedGeneration                                                int64
			DesiredNumberScheduled, UpdatedNumberScheduled, NumberAvailable   int64
			Replicas, UpdatedReplicas, AvailableReplicas, TerminatingReplicas int64
			Conditions                                                        []condition
		}
	}
	if err := convert(o, &v); err != nil {
		return workload{}, err
	}
	s := v.Status
	w := workload{observed: s.ObservedGeneration >= v.Metadata.Generation}
	if o.GetKind() == "DaemonSet" {
		w.wanted, w.updated, w.available = s.DesiredNumberScheduled, s.UpdatedNumberScheduled, s.NumberAvailable
		return w, nil
	}
	w.wanted = 1
	if v.Spec.Replicas != nil {
		w.wanted = *v.Spec.Replicas
	}
	w.updated, w.available, w.old = s.UpdatedReplicas, s.AvailableReplicas, s.Replicas-s.UpdatedReplicas
	for _, c := range s.Conditions {
		if c.Type == "ReplicaFailure" && c.Status == "True" {
			w.problem = short(c.Reason, c.Message)
		}
	}
	return w, nil
}

// lacks says what a workload lacks: by its controller, and its pods on the node or on no
// node yet, each with what it waits for.
func (c *client) lacks(ctx context.Context, w *unstructured.Unstructured, state workload, here Here) (string, error) {
	text := state.lacks()
	reasons, found, err := c.pods(ctx, w, here)
	switch {
	case err != nil:
		return "", err
	case text == "" && !found && w.GetKind() == "DaemonSet":
		text = "no pod on node " + here.Node
	case text == "" && len(reasons) > 0:
		text = "not ready on node " + here.Node
	}
	if len(reasons) > 0 {
		text += " (" + strings.Join(reasons, ", ") + ")"
	}
	return text, nil
}

// pods says of each pod of a workload, on the node or on none, what it waits for, and
// whether the node has one.
func (c *client) pods(ctx context.Context, w *unstructured.Unstructured, here Here) (reasons []string, found bool, err error) {
	selector, _, err := unstructured.NestedStringMap(w.Object, "spec", "selector", "matchLabels")
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", name(w), err)
	}
	pods, err := c.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace(w.GetNamespace()).
		List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(selector).String(), Limit: maxPods})
	if err != nil {
		return nil, false, fmt.Errorf("pods of %s: %w", name(w), err)
	}
	for i := range pods.Items {
		var p pod
		if err := convert(&pods.Items[i], &p); err != nil {
			return nil, false, err
		}
		if p.Spec.NodeName != "" && p.Spec.NodeName != here.Node {
			continue
		}
		found = found || p.Spec.NodeName != ""
		reason := p.problem(here.Booted)
		if reason == "" {
			continue
		}
		if p.silent() {
			reason = short(reason, c.warning(ctx, &pods.Items[i]))
		}
		reasons = append(reasons, p.Metadata.Name+": "+reason)
	}
	if len(pods.Items) == 0 {
		if warning := c.warning(ctx, w); warning != "" {
			reasons = append(reasons, warning)
		}
	}
	return reasons, found, nil
}

// static says which of the node's static pods, in the workloads' namespaces, is not
// ready and why, or nothing.
func (c *client) static(ctx context.Context, workloads []*unstructured.Unstructured, here Here) (string, error) {
	var namespaces, reasons []string
	for _, w := range workloads {
		namespaces = append(namespaces, w.GetNamespace())
	}
	slices.Sort(namespaces)
	for _, namespace := range slices.Compact(namespaces) {
		pods, err := c.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace(namespace).
			List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + here.Node})
		if err != nil {
			return "", fmt.Errorf("pods of node %s: %w", here.Node, err)
		}
		for i := range pods.Items {
			if pods.Items[i].GetAnnotations()[mirror] == "" {
				continue
			}
			var p pod
			if err := convert(&pods.Items[i], &p); err != nil {
				return "", err
			}
			if reason := p.problem(here.Booted); reason != "" {
				reasons = append(reasons, p.Metadata.Name+": "+reason)
			}
		}
	}
	return strings.Join(reasons, ", "), nil
}

// mirror is the annotation of what stands for a static pod.
const mirror = "kubernetes.io/config.mirror"

// maxPods bounds how many pods of a workload are looked at.
const maxPods = 20

// warning is the newest one among an object's events, in which kubelet says what it
// cannot do. Without it a reason is shorter: no error.
func (c *client) warning(ctx context.Context, o *unstructured.Unstructured) string {
	events, err := c.Resource(schema.GroupVersionResource{Version: "v1", Resource: "events"}).Namespace(o.GetNamespace()).
		List(ctx, metav1.ListOptions{FieldSelector: "type=Warning,involvedObject.uid=" + string(o.GetUID()), Limit: maxPods})
	if err != nil {
		return ""
	}
	var newest, text string
	for i := range events.Items {
		var e struct {
			LastTimestamp, EventTime string // RFC 3339, and so in order
			Reason, Message          string
		}
		if err := convert(&events.Items[i], &e); err != nil {
			continue
		}
		if when := max(e.LastTimestamp, e.EventTime); when >= newest {
			newest, text = when, short(e.Reason, e.Message)
		}
	}
	return text
}
