// SPDX-License-Identifier: Apache-2.0

package kubeadm

import (
	"bytes"
	"embed"
	"fmt"
	"path/filepath"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/constellation-os/constellation/kubernetes/network"
)

// Where things are on a node.
const (
	// DefaultDirectory is where kubeadm's own files are put: in memory, for they are
	// made anew for each run.
	DefaultDirectory = "/run/constellation/kubeadm"

	// APIServerDirectory is where the files are that the API server reads at each
	// start, on the state disk.
	APIServerDirectory = "/etc/kubernetes/constellation"

	// SecretsProviderSocket is where the API server has Secrets encrypted
	// (services/keyservice/secretsprovider). Its folder must be there before the API
	// server starts and stay the same folder: it is mounted into the API server's pod.
	SecretsProviderSocket = "/run/constellation/secretsprovider/kms.sock"

	// AuditLog is the API server's, with at most four predecessors of 25 MB beside it.
	AuditLog = "/var/log/kubernetes/audit/audit.log"

	// Kubeconfig is the administrator's, written by kubeadm.
	Kubeconfig = "/etc/kubernetes/admin.conf"
)

// Parameters are what differs between clusters.
type Parameters struct {
	// NodeName of 1 to 63 lower-case letters, digits and dashes (RFC 1123).
	NodeName string
	// NodeAddress is the IPv4 address at which other nodes reach this one.
	NodeAddress string
	// Endpoint is the HOST:PORT at which nodes and users reach the API servers.
	Endpoint string
	// APIServerNames are further names and addresses for the API server's certificate.
	APIServerNames []string
	// ClusterName is for people: like a node's name. "constellation" if empty.
	ClusterName string
	// PodNetwork and ServiceNetwork are IPv4, in CIDR notation.
	PodNetwork, ServiceNetwork string
	// KubernetesVersion is the component set's, such as 1.37.2.
	KubernetesVersion string
	// Images by their name in the component set; "kubernetes" and "etcd" are used.
	// Each is named by its digest.
	Images map[string]string
	// Directory for kubeadm's files; DefaultDirectory if empty.
	Directory string
	// SingleNode says that there are no workers: the control plane's node runs
	// everybody's pods.
	SingleNode bool
	// EtcdMembers are those of a cluster that is there, NAME=URL,…, with this node among
	// them; empty on the cluster's first node.
	EtcdMembers string
}

// Files are the contents of files, by their absolute path.
type Files map[string][]byte

//go:embed files
var embedded embed.FS

// Render makes all files. Equal parameters make equal files.
func Render(p Parameters) (Files, error) {
	if p.Directory == "" {
		p.Directory = DefaultDirectory
	}
	if p.ClusterName == "" {
		p.ClusterName = "constellation"
	}
	n, err := p.check()
	if err != nil {
		return nil, fmt.Errorf("configuration of kubeadm: %w", err)
	}
	files := Files{}
	configuration, err := p.configuration(n)
	if err != nil {
		return nil, err
	}
	files[ConfigFile(p.Directory)] = configuration
	for _, component := range components {
		patch, err := p.patch(component)
		if err != nil {
			return nil, err
		}
		files[filepath.Join(patches(p.Directory), component+"0+strategic.yaml")] = patch
	}
	for _, name := range []string{"audit-policy.yaml", "authentication.yaml", "encryption.yaml"} {
		data, err := embedded.ReadFile("files/" + name)
		if err != nil {
			return nil, err
		}
		files[filepath.Join(APIServerDirectory, name)] = data
	}
	return files, nil
}

// ConfigFile is what kubeadm is given with --config: the file in a directory.
func ConfigFile(directory string) string { return filepath.Join(directory, "kubeadm.yaml") }

func patches(directory string) string { return filepath.Join(directory, "patches") }

// components are kubeadm's static pods and the images that they run.
var components = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}

func (p *Parameters) image(component string) string {
	if component == "etcd" {
		return p.Images["etcd"]
	}
	return p.Images["kubernetes"]
}

// configuration is kubeadm's and kubelet's, in one file.
func (p *Parameters) configuration(n network.Network) ([]byte, error) {
	initial, err := document("init.yaml",
		field{p.NodeName, []string{"nodeRegistration", "name"}},
		field{[]any{map[string]any{"name": "node-ip", "value": p.NodeAddress}}, []string{"nodeRegistration", "kubeletExtraArgs"}},
		field{p.NodeAddress, []string{"localAPIEndpoint", "advertiseAddress"}},
		field{patches(p.Directory), []string{"patches", "directory"}},
	)
	if err != nil {
		return nil, err
	}
	if p.SingleNode {
		// Left out, it would mean the control plane's taint.
		if err := unstructured.SetNestedSlice(initial, []any{}, "nodeRegistration", "taints"); err != nil {
			return nil, err
		}
	}
	cluster, err := document("cluster.yaml",
		field{p.ClusterName, []string{"clusterName"}},
		field{"v" + p.version(), []string{"kubernetesVersion"}},
		field{p.Endpoint, []string{"controlPlaneEndpoint"}},
		field{n.Pods.String(), []string{"networking", "podSubnet"}},
		field{n.Services.String(), []string{"networking", "serviceSubnet"}},
		field{p.certificateNames(), []string{"apiServer", "certSANs"}},
	)
	if err != nil {
		return nil, err
	}
	if p.EtcdMembers != "" {
		if err := p.joinEtcd(cluster); err != nil {
			return nil, err
		}
	}
	kubelet, err := document("kubelet.yaml", field{[]any{n.DNS().String()}, []string{"clusterDNS"}})
	if err != nil {
		return nil, err
	}
	return join(initial, cluster, kubelet)
}

// joinEtcd has etcd begin as one more member of a cluster. The flags count for a member
// without data alone.
func (p *Parameters) joinEtcd(cluster map[string]any) error {
	path := []string{"etcd", "local", "extraArgs"}
	flags, _, err := unstructured.NestedSlice(cluster, path...)
	if err != nil {
		return err
	}
	flags = append(flags,
		map[string]any{"name": "initial-cluster", "value": p.EtcdMembers},
		map[string]any{"name": "initial-cluster-state", "value": "existing"})
	return unstructured.SetNestedSlice(cluster, flags, path...)
}

// patch sets the image of a static pod and takes rights from it.
func (p *Parameters) patch(component string) ([]byte, error) {
	patch, err := document("patches/" + component + ".yaml")
	if err != nil {
		return nil, err
	}
	containers, _, err := unstructured.NestedSlice(patch, "spec", "containers")
	if err != nil || len(containers) != 1 {
		return nil, fmt.Errorf("patch of %s: %d containers, %v", component, len(containers), err)
	}
	containers[0].(map[string]any)["image"] = p.image(component)
	if err := unstructured.SetNestedSlice(patch, containers, "spec", "containers"); err != nil {
		return nil, err
	}
	return join(patch)
}

type field struct {
	value any
	path  []string
}

// document reads an embedded file and sets fields of it.
func document(name string, fields ...field) (map[string]any, error) {
	data, err := embedded.ReadFile("files/" + name)
	if err != nil {
		return nil, err
	}
	var content map[string]any
	if err := yaml.UnmarshalStrict(data, &content); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for _, f := range fields {
		if err := unstructured.SetNestedField(content, f.value, f.path...); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return content, nil
}

func join(documents ...map[string]any) ([]byte, error) {
	var out bytes.Buffer
	for i, d := range documents {
		if i > 0 {
			out.WriteString("---\n")
		}
		data, err := yaml.Marshal(d)
		if err != nil {
			return nil, err
		}
		out.Write(data)
	}
	return out.Bytes(), nil
}
