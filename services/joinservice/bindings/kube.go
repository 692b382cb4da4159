// SPDX-License-Identifier: Apache-2.0

package bindings

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/kubernetes/kubeclient"
)

// Namespace is where the objects of [Bindings] are.
const Namespace = "constellation-nodes"

const resource = "configmaps"

// Kubernetes is the [Objects] of a cluster: ConfigMaps in one namespace. For [Bindings]
// the caller's account must be allowed to get, create and update them, and nothing else.
type Kubernetes struct {
	client    rest.Interface
	namespace string
}

// NewKubernetes makes one. It does not ask the API server yet.
func NewKubernetes(config *rest.Config, namespace string) (*Kubernetes, error) {
	client, err := kubeclient.New(config, corev1.SchemeGroupVersion, corev1.AddToScheme)
	if err != nil {
		return nil, err
	}
	return &Kubernetes{client, namespace}, nil
}

// Get implements [Objects].
func (k *Kubernetes) Get(ctx context.Context, name string) (*Object, error) {
	var m corev1.ConfigMap
	err := k.client.Get().Namespace(k.namespace).Resource(resource).Name(name).MaxRetries(0).Do(ctx).Into(&m)
	if err != nil {
		return nil, classify(err)
	}
	if m.DeletionTimestamp != nil { // and waits for what Leaving is for
		return nil, fmt.Errorf("%w: %s is being removed", ErrNotFound, name)
	}
	return &Object{Name: m.Name, Version: m.ResourceVersion, Data: m.Data}, nil
}

// Create implements [Objects].
func (k *Kubernetes) Create(ctx context.Context, o *Object) error {
	err := k.client.Post().Namespace(k.namespace).Resource(resource).Body(k.configMap(o)).MaxRetries(0).Do(ctx).Error()
	if apierrors.IsNotFound(err) { // not an object that is gone
		return fmt.Errorf("there is no namespace %s", k.namespace)
	}
	return classify(err)
}

// Update implements [Objects].
func (k *Kubernetes) Update(ctx context.Context, o *Object) error {
	return classify(k.client.Put().Namespace(k.namespace).Resource(resource).Name(o.Name).Body(k.configMap(o)).MaxRetries(0).Do(ctx).Error())
}

func (k *Kubernetes) configMap(o *Object) *corev1.ConfigMap {
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: o.Name, Namespace: k.namespace, ResourceVersion: o.Version}, Data: o.Data}
	if o.Data[fieldRole] == policy.ControlPlane {
		m.Labels, m.Finalizers = map[string]string{roleLabel: policy.ControlPlane}, []string{finalizer}
	}
	return m
}

func classify(err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case apierrors.IsAlreadyExists(err):
		return fmt.Errorf("%w: %w", ErrExists, err)
	case apierrors.IsConflict(err):
		return fmt.Errorf("%w: %w", ErrConflict, err)
	}
	return err
}
