// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"k8s.io/client-go/rest"

	"github.com/constellation-os/constellation/kubernetes/kubeclient"
	"github.com/constellation-os/constellation/measurements/printable"
	api "github.com/constellation-os/constellation/services/api/verificationservice"
	"github.com/constellation-os/constellation/services/verificationservice/client"
)

// Limits of lists of nodes.
const (
	maxNodes   = 5000 // that Kubernetes supports
	maxListing = 64 << 20
	maxName    = 253 // RFC 1123
)

// node is one that is to prove itself. Its name and where it is are hearsay.
type node struct {
	name, endpoint string
	// named says that the name is one that was given to it, not its address.
	named bool
	// controlPlane says that it is a node of the control plane.
	controlPlane bool
	// client asks it; nil where there is nothing to ask.
	client *client.Client
}

// parseNodes reads [NAME=]ENDPOINT.
func parseNodes(args []string) ([]node, error) {
	if len(args) > maxNodes {
		return nil, fmt.Errorf("%d nodes, at most %d", len(args), maxNodes)
	}
	var out []node
	seen := map[string]bool{}
	for _, arg := range args {
		name, endpoint, named := strings.Cut(arg, "=")
		if !named {
			name, endpoint = arg, arg
		}
		if name == "" || !printable.Is(name, maxName) {
			return nil, fmt.Errorf("%q: want [NAME=]HOST:PORT or [NAME=]http://HOST:PORT", arg)
		}
		if seen[name] || named && seen[endpoint] {
			return nil, fmt.Errorf("%q: the name or the endpoint is there twice", arg)
		}
		seen[name], seen[endpoint] = true, true
		c, err := client.New(endpoint, nil)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", arg, err)
		}
		out = append(out, node{name: name, endpoint: endpoint, named: named, client: c})
	}
	return out, nil
}

// object is what is read of Kubernetes' objects.
type object struct {
	Metadata struct {
		Name              string
		Labels            map[string]string
		DeletionTimestamp *string
	}
	Spec struct {
		NodeName string
	}
	Status struct {
		Phase string
	}
}

// listNodes asks the API server which nodes there are, and where on each of them
// VerificationService runs.
func listNodes(ctx context.Context, kubeconfig string) ([]node, error) {
	config, err := kubeclient.Config(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig: %w", err)
	}
	config.DisableCompression = true
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kubeconfig, err)
	}
	h, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kubeconfig, err)
	}
	nodes, err := list(ctx, h, base.JoinPath("api/v1/nodes"))
	if err != nil {
		return nil, fmt.Errorf("list the nodes: %w", err)
	}
	if len(nodes) == 0 {
		return nil, errors.New("the API server lists no node")
	}
	pods := base.JoinPath("api/v1/namespaces/kube-system/pods")
	pods.RawQuery = url.Values{"labelSelector": {"app.kubernetes.io/name=verificationservice"}}.Encode()
	services, err := list(ctx, h, pods)
	if err != nil {
		return nil, fmt.Errorf("list the pods of VerificationService: %w", err)
	}
	pods.RawQuery = ""
	return match(nodes, services, pods, h)
}

// controlPlaneLabel is what kubeadm labels nodes of the control plane with.
const controlPlaneLabel = "node-role.kubernetes.io/control-plane"

// match finds each node's service; pods is the URL of all pods.
func match(nodes, services []object, pods *url.URL, h *http.Client) ([]node, error) {
	on := map[string]string{}
	for _, pod := range services {
		if pod.Status.Phase == "Running" && pod.Metadata.DeletionTimestamp == nil {
			on[pod.Spec.NodeName] = pod.Metadata.Name
		}
	}
	var out []node
	for _, n := range nodes {
		_, controlPlane := n.Metadata.Labels[controlPlaneLabel]
		one := node{name: printable.Text(n.Metadata.Name, maxName), named: true, controlPlane: controlPlane}
		if pod := on[n.Metadata.Name]; pod != "" {
			one.endpoint = pods.String() + "/" + url.PathEscape("http:"+net.JoinHostPort(pod, fmt.Sprint(api.HTTPPort))) + "/proxy"
			c, err := client.New(one.endpoint, h)
			if err != nil {
				return nil, fmt.Errorf("node %s: %w", one.name, err)
			}
			one.client = c
		}
		out = append(out, one)
	}
	return out, nil
}

// list reads all objects at a URL.
func list(ctx context.Context, h *http.Client, u *url.URL) ([]object, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := h.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxListing+1))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the API server says %d: %s", resp.StatusCode, printable.Text(data, 300))
	case len(data) > maxListing:
		return nil, fmt.Errorf("the list has more than %d bytes", maxListing)
	}
	var out struct{ Items []object }
	if err := json.Unmarshal(data, &out); err != nil {
		return nil, fmt.Errorf("the list is not JSON: %w", err)
	}
	if len(out.Items) > maxNodes {
		return nil, fmt.Errorf("%d objects, at most %d", len(out.Items), maxNodes)
	}
	return out.Items, nil
}
