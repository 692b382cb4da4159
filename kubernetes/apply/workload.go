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

func (w workload) ready() bool {
	return w.observed && w.wanted > 0 && w.updated == w.wanted && w.available == w.wanted && w.old == 0
}

func (w workload) String() string {
	switch {
	case !w.observed:
		return "not taken up yet"
	case w.wanted == 0:
		return "no pod is wanted"
	case w.available == w.wanted && w.updated == w.wanted:
		return fmt.Sprintf("old pods still run: %d", w.old)
	case w.available == w.wanted:
		return fmt.Sprintf("%d of %d pods updated", w.updated, w.wanted)
	}
	return short(fmt.Sprintf("%d of %d pods available", w.available, w.wanted), w.problem)
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

// explain says of each pod of a workload that is not ready what it waits for.
func (c *client) explain(ctx context.Context, w *unstructured.Unstructured) (string, error) {
	selector, _, err := unstructured.NestedStringMap(w.Object, "spec", "selector", "matchLabels")
	if err != nil {
		return "", fmt.Errorf("%s: %w", name(w), err)
	}
	pods, err := c.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace(w.GetNamespace()).
		List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(selector).String(), Limit: maxPods})
	if err != nil {
		return "", fmt.Errorf("pods of %s: %w", name(w), err)
	}
	var reasons []string
	for i := range pods.Items {
		var p pod
		if err := convert(&pods.Items[i], &p); err != nil {
			return "", err
		}
		reason := p.problem()
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
	if len(reasons) == 0 {
		return "", nil
	}
	return " (" + strings.Join(reasons, ", ") + ")", nil
}

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
