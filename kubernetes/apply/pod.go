// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

type pod struct {
	object   *unstructured.Unstructured
	Metadata struct{ Name string }
	Spec     struct{ NodeName string }
	Status   struct {
		Phase                                    string
		Reason, Message                          string
		Conditions                               []condition
		InitContainerStatuses, ContainerStatuses []container
	}
}

type container struct {
	Name             string
	Ready            bool
	State, LastState containerState
}

type containerState struct {
	Waiting    *struct{ Reason, Message string }
	Running    *struct{ StartedAt time.Time }
	Terminated *struct {
		Reason, Message string
		ExitCode        int64
	}
}

// podList are pods.
type podList []*pod

// podsOn returns the pods on the node, and those on no node yet, in the namespaces of the
// workloads.
func (c *client) podsOn(ctx context.Context, workloads []*unstructured.Unstructured, here Here) (podList, error) {
	var namespaces []string
	for _, w := range workloads {
		namespaces = append(namespaces, w.GetNamespace())
	}
	slices.Sort(namespaces)
	var all podList
	for _, namespace := range slices.Compact(namespaces) {
		found, err := c.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("pods in %s: %w", namespace, err)
		}
		for i := range found.Items {
			p := &pod{object: &found.Items[i]}
			if err := convert(p.object, p); err != nil {
				return nil, err
			}
			if p.Spec.NodeName == "" || p.Spec.NodeName == here.Node {
				all = append(all, p)
			}
		}
	}
	return all, nil
}

// static says which static pods are not ready and why, or nothing.
func (l podList) static(here Here) string {
	var reasons []string
	for _, p := range l {
		if p.object.GetAnnotations()[mirror] == "" {
			continue
		}
		if reason := p.problem(here.Booted); reason != "" {
			reasons = append(reasons, p.Metadata.Name+": "+reason)
		}
	}
	return strings.Join(reasons, ", ")
}

// mirror is the annotation of what stands for a static pod.
const mirror = "kubernetes.io/config.mirror"

// problem is why a pod is not ready, or nothing, on a node that booted then.
func (p *pod) problem(booted time.Time) string {
	var notReady string
	for _, c := range p.Status.Conditions {
		switch {
		case c.Type == "Ready" && c.Status == "True" && p.before(booted):
			return "has not been started since the node booted"
		case c.Type == "Ready" && c.Status == "True":
			return ""
		case c.Type == "PodScheduled" && c.Status == "False":
			return short("on no node yet", c.Message)
		}
	}
	if p.Status.Reason != "" {
		return short(p.Status.Reason, p.Status.Message)
	}
	for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		if reason := c.problem(); reason != "" {
			return reason
		}
		if c.State.Running != nil && !c.Ready {
			notReady = "runs, is not ready yet"
		}
	}
	if notReady != "" {
		return notReady
	}
	return "kubelet has not started it"
}

// before says that what the status knows of ran before the node booted.
func (p *pod) before(booted time.Time) bool {
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Running == nil || c.State.Running.StartedAt.Before(booted) {
			return true
		}
	}
	return false
}

// silent says that the pod's status does not tell what is wrong, events may.
func (p *pod) silent() bool {
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w == nil || w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
			return c.State.Running != nil
		}
	}
	return true
}

func (c *container) problem() string {
	end := func(s containerState) string {
		if t := s.Terminated; t != nil {
			return short(fmt.Sprintf("ended with code %d", t.ExitCode), t.Message)
		}
		return ""
	}
	switch {
	case c.State.Waiting != nil:
		w := c.State.Waiting
		return short(w.Reason, end(c.LastState), w.Message)
	case c.State.Terminated != nil && c.State.Terminated.ExitCode != 0:
		return end(c.State)
	}
	return ""
}
