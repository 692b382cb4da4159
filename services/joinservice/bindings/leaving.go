// SPDX-License-Identifier: Apache-2.0

package bindings

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/constellation-os/constellation/attestation/policy"
)

// The object of a node of the control plane has a finalizer from the beginning: whoever
// deletes it takes the node out of the cluster, and it is there until somebody has taken
// the node's etcd out of the members. By the label these objects are found.
const (
	finalizer = "constellation/etcd-member"
	roleLabel = "constellation/role"
)

// WhyStill is the annotation of an object that was deleted and is still there, for people.
const WhyStill = "constellation/why-still-here"

// Leaver is a node of the control plane that is no node any more, and whose etcd may be a
// member yet.
type Leaver struct {
	Name, Address string
	// Why is what was last said with Explain.
	Why string

	object, version string
}

// Leaving are all leavers. Besides what [Bindings] needs the caller's account must be
// allowed to list and patch the objects.
func (k *Kubernetes) Leaving(ctx context.Context) ([]Leaver, error) {
	var list corev1.ConfigMapList
	err := k.client.Get().Namespace(k.namespace).Resource(resource).Param("labelSelector", roleLabel+"="+policy.ControlPlane).Do(ctx).Into(&list)
	if err != nil {
		return nil, fmt.Errorf("list the nodes of the control plane: %w", err)
	}
	var out []Leaver
	for _, m := range list.Items {
		if m.DeletionTimestamp != nil && slices.Contains(m.Finalizers, finalizer) {
			out = append(out, Leaver{m.Data[fieldName], m.Data[fieldAddress], m.Annotations[WhyStill], m.Name, m.ResourceVersion})
		}
	}
	return out, nil
}

// Release lets a leaver's object go. That it is gone is no error.
func (k *Kubernetes) Release(ctx context.Context, l Leaver) error {
	err := k.patch(ctx, l, map[string]any{"resourceVersion": l.version, "finalizers": nil})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// Explain says at a leaver's object why it is still there.
func (k *Kubernetes) Explain(ctx context.Context, l Leaver, why string) error {
	return k.patch(ctx, l, map[string]any{"annotations": map[string]string{WhyStill: why}})
}

func (k *Kubernetes) patch(ctx context.Context, l Leaver, metadata map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	err = k.client.Patch(types.MergePatchType).Namespace(k.namespace).Resource(resource).Name(l.object).Body(patch).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("change %s, which is being removed: %w", l.object, err)
	}
	return nil
}
