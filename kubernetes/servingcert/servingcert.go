// SPDX-License-Identifier: Apache-2.0

package servingcert

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// Nodes says which addresses are a node's; false for nodes that it does not know.
type Nodes func(name string) ([]netip.Addr, bool)

// One is a single node.
func One(name string, addresses ...netip.Addr) Nodes {
	return func(n string) ([]netip.Addr, bool) { return addresses, n == name }
}

const (
	pause    = 2 * time.Second
	maxPause = 30 * time.Second
	// watchTime is how long, in seconds, the API server tells of new requests before
	// all are looked at again.
	watchTime = 600
)

var resource = schema.GroupVersionResource{Group: "certificates.k8s.io", Version: "v1", Resource: "certificatesigningrequests"}

// Run decides on requests as they come, until the context ends; that is no error.
// It goes on while the API server does not answer. The client may list, watch and
// get CertificateSigningRequests, update their approval, and approve for the signer
// kubernetes.io/kubelet-serving.
func Run(ctx context.Context, config *rest.Config, nodes Nodes, log *slog.Logger) error {
	config = rest.CopyConfig(config)
	config.UserAgent = "constellation"
	config.Timeout = 0 // would end every watch
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	a := approver{client.Resource(resource), nodes, log}
	wait := pause
	for ctx.Err() == nil {
		if err := a.follow(ctx); err != nil && ctx.Err() == nil {
			log.InfoContext(ctx, "kubelets' certificates: the API server does not answer", "error", err.Error())
			wait = min(2*wait, maxPause)
		} else {
			wait = pause
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	return nil
}

type approver struct {
	client dynamic.NamespaceableResourceInterface
	nodes  Nodes
	log    *slog.Logger
}

// follow decides on what is there, and then on what comes.
func (a *approver) follow(ctx context.Context) error {
	options := metav1.ListOptions{FieldSelector: "spec.signerName=" + signer}
	list, err := a.list(ctx, options)
	if err != nil {
		return err
	}
	for i := range list.Items {
		if err := a.decide(ctx, &list.Items[i]); err != nil {
			return err
		}
	}
	seconds := int64(watchTime)
	options.ResourceVersion, options.TimeoutSeconds = list.GetResourceVersion(), &seconds
	w, err := a.client.Watch(ctx, options)
	if err != nil {
		return err
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		o, ok := event.Object.(*unstructured.Unstructured)
		if !ok || event.Type == watch.Error {
			return fmt.Errorf("watch: %v", event.Object)
		}
		if event.Type != watch.Added {
			continue
		}
		if err := a.decide(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

func (a *approver) list(ctx context.Context, options metav1.ListOptions) (*unstructured.UnstructuredList, error) {
	ctx, cancel := context.WithTimeout(ctx, maxPause)
	defer cancel()
	return a.client.List(ctx, options)
}

// decide approves or denies a request that is ours to decide on.
func (a *approver) decide(ctx context.Context, o *unstructured.Unstructured) error {
	data, err := o.MarshalJSON()
	if err != nil {
		return err
	}
	var r request
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("request %s: %w", o.GetName(), err)
	}
	node, ok := r.node()
	if !r.pending() || !ok {
		return nil
	}
	addresses, ok := a.nodes(node)
	if !ok {
		return nil
	}
	condition := map[string]any{"type": "Approved", "status": "True", "reason": "Constellation", "message": "the node asks for itself"}
	refusal := r.check(node, addresses)
	if refusal != nil {
		condition["type"], condition["message"] = "Denied", refusal.Error()
		a.log.WarnContext(ctx, "kubelet's certificate denied", "node", node, "reason", refusal.Error())
	}
	if err := unstructured.SetNestedSlice(o.Object, []any{condition}, "status", "conditions"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, maxPause)
	defer cancel()
	if _, err := a.client.Update(ctx, o, metav1.UpdateOptions{}, "approval"); err != nil {
		return fmt.Errorf("request %s: %w", o.GetName(), err)
	}
	if refusal == nil {
		a.log.InfoContext(ctx, "kubelet's certificate approved", "node", node)
	}
	return nil
}
