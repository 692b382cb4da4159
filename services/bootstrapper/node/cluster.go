// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/constellation-os/constellation/kubernetes/apply"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
)

// apiServerPort is where the API server listens on its node.
const apiServerPort = 6443

const (
	requestTime = 20 * time.Second // of an API server that is only just starting
	maxAnswer   = 1 << 20
)

// Cluster is the cluster as this node's own API server has it.
type Cluster struct {
	// Config is that of a client of the API server with all rights.
	Config func() (*rest.Config, error)
	// Node is this node's name, Booted when it did.
	Node   string
	Booted func() (time.Time, error)
	// Objects are the cluster's own services; nil where they are nothing to wait for.
	Objects func() ([]*unstructured.Unstructured, error)
}

// LocalConfig is the configuration that kubeadm makes for emergencies, and which needs
// no rights to be there yet. It is for the API server of this node.
func LocalConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", superAdminConfig)
	if err != nil {
		return nil, err
	}
	address, err := Address()
	if err != nil {
		return nil, err
	}
	config.Host = "https://" + net.JoinHostPort(address.String(), strconv.Itoa(apiServerPort))
	config.Timeout = requestTime
	config.UserAgent = "constellation-bootstrapper"
	return config, nil
}

// KubeletConfig is kubelet's own configuration: for a worker, which may ask for its node
// and little else.
func KubeletConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeletConfig)
	if err != nil {
		return nil, err
	}
	config.Timeout = requestTime
	config.UserAgent = "constellation-bootstrapper"
	return config, nil
}

// get asks for a path of the API.
func (c *Cluster) get(ctx context.Context, path, query string) (code int, body []byte, err error) {
	config, err := c.Config()
	if err != nil {
		return 0, nil, err
	}
	// Equal configurations have one transport, and so a connection that is kept: each new
	// one costs a starting API server a handshake.
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return 0, nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+path+"?"+query, nil)
	if err != nil {
		return 0, nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		// Which URL it was is no news.
		if inner, ok := errors.AsType[*url.Error](err); ok {
			err = inner.Err
		}
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	return response.StatusCode, body, err
}

// Ready implements steps.Cluster.
func (c *Cluster) Ready(ctx context.Context) error {
	code, body, err := c.get(ctx, "/readyz", "verbose")
	switch {
	case err != nil:
		return err
	case code == http.StatusOK:
		return nil
	}
	// Each line of the answer that begins with [-] is a check that failed.
	var failed []string
	for line := range strings.Lines(string(body)) {
		if rest, ok := strings.CutPrefix(line, "[-]"); ok {
			name, _, _ := strings.Cut(rest, " ")
			failed = append(failed, name)
		}
	}
	if len(failed) == 0 {
		return fmt.Errorf("it answers %d", code)
	}
	return fmt.Errorf("it is not ready: %s", strings.Join(failed, ", "))
}

// node is what matters here of a Node object.
type node struct {
	Status struct {
		Conditions []struct {
			Type, Status, Reason, Message string
			LastHeartbeatTime             time.Time
		}
	}
}

// NodeReady implements steps.Cluster.
func (c *Cluster) NodeReady(ctx context.Context) error {
	code, body, err := c.get(ctx, "/api/v1/nodes/"+c.Node, "")
	switch {
	case err != nil:
		return fmt.Errorf("ask the API server: %w", err)
	case code == http.StatusNotFound:
		return errors.New("kubelet has not registered it")
	case code != http.StatusOK:
		return fmt.Errorf("the API server answers %d", code)
	}
	var n node
	if err := json.Unmarshal(body, &n); err != nil {
		return err
	}
	booted, err := c.Booted()
	if err != nil {
		return err
	}
	for _, condition := range n.Status.Conditions {
		if condition.Type != "Ready" {
			continue
		}
		if condition.LastHeartbeatTime.Before(booted) {
			return errors.New("kubelet has not reported since the node booted")
		}
		if condition.Status == "True" {
			return nil
		}
		return fmt.Errorf("%s: %.300s", condition.Reason, condition.Message)
	}
	return errors.New("kubelet has not said whether it is")
}

// Apply implements steps.Cluster.
func (c *Cluster) Apply(ctx context.Context, report steps.Report) error {
	return c.withObjects(ctx, report, apply.Apply)
}

// Await implements steps.Cluster.
func (c *Cluster) Await(ctx context.Context, report steps.Report) error {
	if c.Objects == nil {
		return nil
	}
	booted, err := c.Booted()
	if err != nil {
		return err
	}
	here := apply.Here{Node: c.Node, Booted: booted}
	return c.withObjects(ctx, report, func(ctx context.Context, config *rest.Config, objects []*unstructured.Unstructured, progress func(apply.Progress)) error {
		return apply.Wait(ctx, config, objects, here, progress)
	})
}

func (c *Cluster) withObjects(ctx context.Context, report steps.Report,
	do func(context.Context, *rest.Config, []*unstructured.Unstructured, func(apply.Progress)) error) error {
	objects, err := c.Objects()
	if err != nil {
		return err
	}
	config, err := c.Config()
	if err != nil {
		return err
	}
	return do(ctx, config, objects, func(p apply.Progress) { report(p.Detail, int64(p.Done), int64(p.Total)) })
}
