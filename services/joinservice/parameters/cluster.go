// SPDX-License-Identifier: Apache-2.0

// Package parameters is what JoinService reads in a cluster, and whoever founds or
// administers one writes there: the policy that machines are judged by, and what those
// are told that it lets in. Each is a ConfigMap.
//
// None of it is secret. Whoever may change these objects decides who is let in.
package parameters

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/kubernetes/network"
)

// The ConfigMaps, and the namespace that they are in.
const (
	Namespace  = "kube-system"
	PolicyMap  = "constellation-policy"
	ClusterMap = "constellation-cluster"
)

// Fields of the ConfigMaps.
const (
	FieldPolicy         = "policy.json"
	FieldName           = "name"
	FieldEndpoint       = "endpoint"
	FieldAPIServerNames = "api_server_names" // one in a line
	FieldPodNetwork     = "pod_network"
	FieldServiceNetwork = "service_network"
	FieldSalt           = "salt" // hexadecimal
	FieldComponents     = "components.json"
	FieldSources        = "sources" // one in a line
)

// Cluster is what nodes need to know of it.
type Cluster struct {
	// Name of the cluster, for people.
	Name string
	// Endpoint of the API servers, HOST:PORT, and further names that they have.
	Endpoint       string
	APIServerNames []string
	// PodNetwork and ServiceNetwork are in CIDR notation.
	PodNetwork, ServiceNetwork string
	// Salt of the key hierarchy.
	Salt []byte
	// Components is the component set, and Sources where they are fetched from.
	Components []byte
	Sources    []string
}

// Parse reads the data of [ClusterMap].
func Parse(data map[string]string) (*Cluster, error) {
	c := &Cluster{
		Name: data[FieldName], Endpoint: data[FieldEndpoint], APIServerNames: strings.Fields(data[FieldAPIServerNames]),
		PodNetwork: data[FieldPodNetwork], ServiceNetwork: data[FieldServiceNetwork],
		Components: []byte(data[FieldComponents]), Sources: strings.Fields(data[FieldSources]),
	}
	if err := network.CheckEndpoint(c.Endpoint); err != nil {
		return nil, err
	}
	if _, err := network.Parse(c.PodNetwork, c.ServiceNetwork); err != nil {
		return nil, err
	}
	var err error
	if c.Salt, err = hex.DecodeString(data[FieldSalt]); err != nil || len(c.Salt) != keys.SaltSize {
		return nil, fmt.Errorf("%s is not %d bytes in hexadecimal", FieldSalt, keys.SaltSize)
	}
	if !json.Valid(c.Components) {
		return nil, fmt.Errorf("%s is no component set", FieldComponents)
	}
	if len(c.Sources) == 0 {
		return nil, fmt.Errorf("%s names no place to fetch components from", FieldSources)
	}
	return c, nil
}

// Data is what Parse reads.
func (c *Cluster) Data() map[string]string {
	return map[string]string{
		FieldName: c.Name, FieldEndpoint: c.Endpoint, FieldAPIServerNames: strings.Join(c.APIServerNames, "\n"),
		FieldPodNetwork: c.PodNetwork, FieldServiceNetwork: c.ServiceNetwork,
		FieldSalt: hex.EncodeToString(c.Salt), FieldComponents: string(c.Components), FieldSources: strings.Join(c.Sources, "\n"),
	}
}

// ConfigMap is [ClusterMap].
func (c *Cluster) ConfigMap() *unstructured.Unstructured { return configMap(ClusterMap, c.Data()) }

// PolicyConfigMap is [PolicyMap] with a policy, which its writer has parsed.
func PolicyConfigMap(document []byte) *unstructured.Unstructured {
	return configMap(PolicyMap, map[string]string{FieldPolicy: string(document)})
}

func configMap(name string, data map[string]string) *unstructured.Unstructured {
	content := map[string]any{}
	for field, value := range data {
		content[field] = value
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name, "namespace": Namespace}, "data": content,
	}}
}
