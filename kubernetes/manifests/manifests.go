// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/constellation-os/constellation/kubernetes/network"
	"github.com/constellation-os/constellation/kubernetes/reference"
)

// Parameters are what differs between clusters.
type Parameters struct {
	// Images by their name in the component set, each named by its digest; Images()
	// says which are needed.
	Images map[string]string
	// PodNetwork and ServiceNetwork are IPv4, in CIDR notation.
	PodNetwork, ServiceNetwork string
	// Endpoint is the HOST:PORT at which nodes reach the API servers.
	Endpoint string
	// SingleNode says that there are no workers: one name server is enough.
	SingleNode bool
}

//go:embed *.yaml
var embedded embed.FS

// Render makes the objects, in the order of the files. Equal parameters make equal
// objects.
func Render(p Parameters) ([]*unstructured.Unstructured, error) {
	n, err := p.check()
	if err != nil {
		return nil, fmt.Errorf("manifests: %w", err)
	}
	objects, err := decode()
	if err != nil {
		return nil, fmt.Errorf("manifests: %w", err)
	}
	for _, o := range objects {
		if err := p.set(o, n); err != nil {
			return nil, fmt.Errorf("manifests: %s: %w", name(o), err)
		}
	}
	if err := noteConfiguration(objects); err != nil {
		return nil, fmt.Errorf("manifests: %w", err)
	}
	return objects, nil
}

func (p *Parameters) check() (network.Network, error) {
	n, err := network.Parse(p.PodNetwork, p.ServiceNetwork)
	if err != nil {
		return n, err
	}
	if err := network.CheckEndpoint(p.Endpoint); err != nil {
		return n, err
	}
	for _, image := range Images() {
		if err := reference.Pinned(p.Images[image]); err != nil {
			return n, fmt.Errorf("%s: %w", image, err)
		}
	}
	return n, nil
}

// Images are the names, in the component set, of the images that the objects use.
func Images() []string {
	return []string{"coredns", "flannel", "joinservice", "keyservice", "kubernetes", "verificationservice"}
}

// decode reads all files.
func decode() ([]*unstructured.Unstructured, error) {
	names, err := fs.Glob(embedded, "*.yaml")
	if err != nil {
		return nil, err
	}
	var objects []*unstructured.Unstructured
	for _, name := range names {
		data, err := embedded.ReadFile(name)
		if err != nil {
			return nil, err
		}
		for document := range bytes.SplitSeq(data, []byte("\n---\n")) {
			content, err := yaml.YAMLToJSONStrict(document)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			o := &unstructured.Unstructured{}
			if err := o.UnmarshalJSON(content); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			objects = append(objects, o)
		}
	}
	return objects, nil
}

func name(o *unstructured.Unstructured) string {
	if o.GetNamespace() == "" {
		return o.GetKind() + " " + o.GetName()
	}
	return o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
}
