// SPDX-License-Identifier: Apache-2.0

package kubeadm

import (
	"net/netip"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/constellation-os/constellation/kubernetes/network"
)

var networks = network.Network{Pods: netip.MustParsePrefix("10.244.0.0/16"), Services: netip.MustParsePrefix("10.96.0.0/12")}

func TestRenderKubelet(t *testing.T) {
	files, err := RenderKubelet(Kubelet{NodeName: "worker-1", NodeAddress: "10.77.0.11", Network: networks})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Kind               string
		ClusterDNS         []string
		RotateCertificates bool
		ServerTLSBootstrap bool
	}
	if err := yaml.Unmarshal(files[KubeletConfig], &got); err != nil {
		t.Fatal(err)
	}
	if got.Kind != "KubeletConfiguration" || len(got.ClusterDNS) != 1 || got.ClusterDNS[0] != "10.96.0.10" || !got.RotateCertificates || !got.ServerTLSBootstrap {
		t.Errorf("configuration is %+v", got)
	}
	if flags := string(files[KubeletFlags]); flags != "KUBELET_KUBEADM_ARGS=\"--hostname-override=worker-1 --node-ip=10.77.0.11\"\n" {
		t.Errorf("flags are %s", flags)
	}
	if len(files) != 2 {
		t.Errorf("%d files", len(files))
	}
}

func TestRenderKubeletRefuses(t *testing.T) {
	for _, tc := range []struct{ name, address, says string }{
		{"worker 1", "10.77.0.11", `name of the node "worker 1"`},
		{"worker-1\" --x=\"", "10.77.0.11", "name of the node"},
		{"worker-1", "10.244.1.1", "is in the network of pods"},
		{"worker-1", "", "is not an IP address"},
	} {
		if _, err := RenderKubelet(Kubelet{NodeName: tc.name, NodeAddress: tc.address, Network: networks}); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%q at %q: %v", tc.name, tc.address, err)
		}
	}
}
