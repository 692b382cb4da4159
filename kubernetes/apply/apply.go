// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// Progress is how far Apply or Wait is.
type Progress struct {
	// Done of Total objects are applied or ready.
	Done, Total int
	// Detail is for people: what was applied, or what is waited for and why.
	Detail string
}

// Apply applies objects, those first that others need: namespaces, then rights,
// configuration, and what runs. The objects are not changed. progress may be nil; it
// is called from the caller's goroutine.
//
// An error names the object. While the API server does not answer, or is not ready
// to take the object, Apply tries again; if the context ends, the error holds the
// last reason, and context.Cause.
func Apply(ctx context.Context, config *rest.Config, objects []*unstructured.Unstructured, progress func(Progress)) error {
	c, err := newClient(config)
	if err != nil {
		return err
	}
	total := len(objects)
	tell := teller(progress)
	for done, o := range sorted(objects) {
		err := retry(ctx, func() error { return c.apply(ctx, o) }, func(err error) {
			tell(Progress{done, total, fmt.Sprintf("%s: %v", name(o), err)})
		})
		if err != nil {
			return fmt.Errorf("apply %s: %w", name(o), err)
		}
		tell(Progress{done + 1, total, name(o)})
	}
	return nil
}

// teller calls progress, if there is one, when there is something new.
func teller(progress func(Progress)) func(Progress) {
	var last Progress
	return func(p Progress) {
		if progress != nil && p != last {
			last = p
			progress(p)
		}
	}
}

// order of kinds. One that is not here comes last.
var order = []string{
	"Namespace", "CustomResourceDefinition", "PriorityClass", "RuntimeClass", "StorageClass",
	"ServiceAccount", "ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding",
	"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "NetworkPolicy",
	"ConfigMap", "Secret", "PersistentVolume", "PersistentVolumeClaim", "Service",
	"DaemonSet", "Deployment", "StatefulSet",
}

func sorted(objects []*unstructured.Unstructured) []*unstructured.Unstructured {
	rank := func(o *unstructured.Unstructured) int {
		if i := slices.Index(order, o.GetKind()); i >= 0 {
			return i
		}
		return len(order)
	}
	s := slices.Clone(objects)
	slices.SortStableFunc(s, func(a, b *unstructured.Unstructured) int { return rank(a) - rank(b) })
	return s
}

func name(o *unstructured.Unstructured) string {
	if o.GetNamespace() == "" {
		return o.GetKind() + " " + o.GetName()
	}
	return o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
}

// client knows the resources that it has asked for, for as long as one call of Apply
// or Wait takes: nothing is remembered that an upgrade could make wrong.
type client struct {
	dynamic.Interface
	rest      *rest.RESTClient
	resources map[schema.GroupVersion][]metav1.APIResource
}

func (c *client) apply(ctx context.Context, o *unstructured.Unstructured) error {
	r, err := c.resource(ctx, o.GroupVersionKind(), o.GetNamespace())
	if err != nil {
		return err
	}
	data, err := json.Marshal(o.Object)
	if err != nil {
		return err
	}
	force := true
	_, err = r.Patch(ctx, o.GetName(), types.ApplyPatchType, data, metav1.PatchOptions{
		FieldManager: Manager, Force: &force, FieldValidation: metav1.FieldValidationStrict,
	})
	return err
}
