// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"github.com/constellation-os/constellation/kubernetes/kubeclient"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
)

// kubeTimeout bounds one request to the API server.
const kubeTimeout = 15 * time.Second

// Where the cluster's policy is (docs/join.md).
const (
	policyNamespace = "kube-system"
	policyObject    = "constellation-policy"
	policyKey       = "policy.json"
)

// kube is the cluster's API server, as its administrator sees it.
type kube struct{ client rest.Interface }

func newKube(kubeconfig string) (*kube, error) {
	config, err := kubeclient.Config(kubeconfig)
	if err != nil {
		return nil, err
	}
	config.Timeout = kubeTimeout
	client, err := kubeclient.New(config, corev1.SchemeGroupVersion, corev1.AddToScheme)
	if err != nil {
		return nil, err
	}
	return &kube{client}, nil
}

// nodes says of each node what keeps it from being ready, nothing if it is.
func (k *kube) nodes(ctx context.Context) (map[string]string, error) {
	var list corev1.NodeList
	if err := k.client.Get().Resource("nodes").Do(ctx).Into(&list); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, n := range list.Items {
		out[n.Name] = "kubelet has not said how it is"
		for _, c := range n.Status.Conditions {
			if c.Type != corev1.NodeReady {
				continue
			}
			if out[n.Name] = ""; c.Status != corev1.ConditionTrue {
				out[n.Name] = "not ready: " + c.Message
			}
		}
	}
	return out, nil
}

// setPolicy makes the cluster go by another policy. JoinService reads it again by itself.
func (k *kube) setPolicy(ctx context.Context, policy []byte) error {
	var m corev1.ConfigMap
	if err := k.client.Get().Namespace(policyNamespace).Resource("configmaps").Name(policyObject).Do(ctx).Into(&m); err != nil {
		return fmt.Errorf("read the cluster's policy: %w", err)
	}
	if m.Data[policyKey] == string(policy) {
		return nil
	}
	m.Data = map[string]string{policyKey: string(policy)}
	if err := k.client.Put().Namespace(policyNamespace).Resource("configmaps").Name(policyObject).Body(&m).Do(ctx).Error(); err != nil {
		return fmt.Errorf("change the cluster's policy: %w", err)
	}
	return nil
}

// forget removes what the cluster knows of a node: the node, and whose its name and its
// disk are (docs/join.md, "Removing a node"). It may be called again.
func (k *kube) forget(ctx context.Context, name string) error {
	if err := k.remove(ctx, "", "nodes", name); err != nil {
		return err
	}
	all, err := k.bound(ctx)
	if err != nil {
		return err
	}
	device := ""
	for _, m := range all {
		if m.Name == "name-"+name {
			device = m.Data["device"]
		}
	}
	if device == "" {
		return nil
	}
	var errs []error
	for _, m := range all {
		if m.Data["device"] == device {
			errs = append(errs, k.remove(ctx, bindings.Namespace, "configmaps", m.Name))
		}
	}
	return errors.Join(errs...)
}

// remove deletes an object, unless there is none.
func (k *kube) remove(ctx context.Context, namespace, resource, name string) error {
	request := k.client.Delete().Resource(resource).Name(name)
	if namespace != "" {
		request = request.Namespace(namespace)
	}
	if err := request.Do(ctx).Error(); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s %s: %w", resource, name, err)
	}
	return nil
}
