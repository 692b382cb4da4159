// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"fmt"
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
func (c *client) lacks(ctx context.Context, w *unstructured.Unstructured, pods podList, here Here) (string, error) {
	state, err := parseWorkload(w)
	if err != nil {
		return "", err
	}
	selector, _, err := unstructured.NestedStringMap(w.Object, "spec", "selector", "matchLabels")
	if err != nil {
		return "", fmt.Errorf("%s: %w", name(w), err)
	}
	var reasons []string
	known, found := 0, false
	for _, p := range pods {
		if p.object.GetNamespace() != w.GetNamespace() || !labels.SelectorFromSet(selector).Matches(labels.Set(p.object.GetLabels())) {
			continue
		}
		known++
		found = found || p.Spec.NodeName != ""
		if reason := p.problem(here.Booted); reason != "" {
			if p.silent() {
				reason = short(reason, c.warning(ctx, p.object))
			}
			reasons = append(reasons, p.Metadata.Name+": "+reason)
		}
	}
	if known == 0 && state.available == 0 {
		if warning := c.warning(ctx, w); warning != "" {
			reasons = append(reasons, warning)
		}
	}
	text := state.lacks()
	switch {
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

// maxEvents bounds how many of an object's events are looked at.
const maxEvents = 20

// warning is the newest one among an object's events, in which kubelet says what it
// cannot do. Without it a reason is shorter: no error.
func (c *client) warning(ctx context.Context, o *unstructured.Unstructured) string {
	events, err := c.Resource(schema.GroupVersionResource{Version: "v1", Resource: "events"}).Namespace(o.GetNamespace()).
		List(ctx, metav1.ListOptions{FieldSelector: "type=Warning,involvedObject.uid=" + string(o.GetUID()), Limit: maxEvents})
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
