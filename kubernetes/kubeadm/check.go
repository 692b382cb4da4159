// SPDX-License-Identifier: Apache-2.0

package kubeadm

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/constellation-os/constellation/kubernetes/network"
	"github.com/constellation-os/constellation/kubernetes/reference"
)

// minor is what the files are written for. Another one has other settings.
const minor = "1.37"

var release = regexp.MustCompile(`^(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})$`)

// maxNames bounds the API server's certificate.
const maxNames = 64

func (p *Parameters) version() string { return strings.TrimPrefix(p.KubernetesVersion, "v") }

// check refuses parameters that kubeadm or what it starts would fail with.
func (p *Parameters) check() (network.Network, error) {
	var none network.Network
	if problems := validation.IsDNS1123Label(p.NodeName); problems != nil {
		return none, fmt.Errorf("name of the node %q is not of 1 to 63 lower-case letters, digits and dashes", p.NodeName)
	}
	if problems := validation.IsDNS1123Label(p.ClusterName); problems != nil {
		return none, fmt.Errorf("name of the cluster %q is not of 1 to 63 lower-case letters, digits and dashes", p.ClusterName)
	}
	if !release.MatchString(p.version()) {
		return none, fmt.Errorf("version of Kubernetes %q is not like %s.2", p.KubernetesVersion, minor)
	}
	if !strings.HasPrefix(p.version(), minor+".") {
		return none, fmt.Errorf("version of Kubernetes %s is unknown: this node can set up %s", p.KubernetesVersion, minor)
	}
	if !filepath.IsAbs(p.Directory) || filepath.Clean(p.Directory) != p.Directory {
		return none, fmt.Errorf("directory %q is not a clean absolute path", p.Directory)
	}
	n, err := network.Parse(p.PodNetwork, p.ServiceNetwork)
	if err != nil {
		return none, err
	}
	if err := n.CheckNode(p.NodeAddress); err != nil {
		return none, err
	}
	if err := network.CheckEndpoint(p.Endpoint); err != nil {
		return none, err
	}
	if len(p.APIServerNames) > maxNames {
		return none, fmt.Errorf("%d names of the API server, at most %d are possible", len(p.APIServerNames), maxNames)
	}
	for _, name := range p.APIServerNames {
		if err := network.CheckHost(name); err != nil {
			return none, fmt.Errorf("name of the API server: %w", err)
		}
	}
	for _, image := range []string{"kubernetes", "etcd"} {
		if err := reference.Pinned(p.Images[image]); err != nil {
			return none, fmt.Errorf("%s: %w", image, err)
		}
	}
	return n, nil
}

// certificateNames are sorted and each there once, so that their order in a request
// makes no difference.
func (p *Parameters) certificateNames() []any {
	names := slices.Compact(slices.Sorted(slices.Values(append([]string{"localhost", "127.0.0.1"}, p.APIServerNames...))))
	values := make([]any, len(names))
	for i, name := range names {
		values[i] = name
	}
	return values
}
