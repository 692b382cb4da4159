// SPDX-License-Identifier: Apache-2.0

// Package kubeclient makes clients of the Kubernetes API for services that need
// one or two kinds of objects of it. It links those kinds only, not the whole API.
package kubeclient

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// timeout bounds a request whose context has no deadline.
const timeout = 30 * time.Second

// Config is that of a kubeconfig file, or with an empty path that of the pod that
// the program runs in.
func Config(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		c, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("not in a pod, and no kubeconfig named: %w", err)
		}
		return c, nil
	}
	return clientcmd.BuildConfigFromFlags("", kubeconfig)
}

// New makes a client for one group and version, whose kinds add registers. It
// neither limits its rate nor retries: its callers know better.
func New(config *rest.Config, gv schema.GroupVersion, add func(*runtime.Scheme) error) (*rest.RESTClient, error) {
	scheme := runtime.NewScheme()
	if err := add(scheme); err != nil {
		return nil, err
	}
	c := rest.CopyConfig(config)
	c.GroupVersion = &gv
	c.APIPath = "/apis"
	if gv.Group == "" {
		c.APIPath = "/api"
	}
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c.UserAgent = "constellation"
	c.QPS = -1
	if c.Timeout == 0 {
		c.Timeout = timeout
	}
	return rest.RESTClientFor(c)
}
