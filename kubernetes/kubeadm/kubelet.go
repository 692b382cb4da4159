// SPDX-License-Identifier: Apache-2.0

package kubeadm

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/constellation-os/constellation/kubernetes/network"
)

// Where kubeadm puts what kubelet is started with.
const (
	KubeletConfig = "/var/lib/kubelet/config.yaml"
	KubeletFlags  = "/var/lib/kubelet/kubeadm-flags.env"
)

// Kubelet are the parameters of a node that has no control plane.
type Kubelet struct {
	// NodeName of 1 to 63 lower-case letters, digits and dashes (RFC 1123).
	NodeName string
	// NodeAddress is the IPv4 address at which other nodes reach this one.
	NodeAddress string
	Network     network.Network
}

// RenderKubelet makes what "kubeadm join" writes for kubelet of a worker, without asking
// anybody: kubelet's configuration and flags. Equal parameters make equal files.
func RenderKubelet(k Kubelet) (Files, error) {
	if problems := validation.IsDNS1123Label(k.NodeName); problems != nil {
		return nil, fmt.Errorf("configuration of kubelet: name of the node %q is not of 1 to 63 lower-case letters, digits and dashes", k.NodeName)
	}
	if err := k.Network.CheckNode(k.NodeAddress); err != nil {
		return nil, fmt.Errorf("configuration of kubelet: %w", err)
	}
	configuration, err := document("kubelet.yaml", field{[]any{k.Network.DNS().String()}, []string{"clusterDNS"}})
	if err != nil {
		return nil, err
	}
	data, err := join(configuration)
	if err != nil {
		return nil, err
	}
	flags := fmt.Sprintf("KUBELET_KUBEADM_ARGS=\"--hostname-override=%s --node-ip=%s\"\n", k.NodeName, k.NodeAddress)
	return Files{KubeletConfig: data, KubeletFlags: []byte(flags)}, nil
}
