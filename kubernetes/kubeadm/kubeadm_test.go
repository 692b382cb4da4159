// SPDX-License-Identifier: Apache-2.0

package kubeadm

import (
	"bytes"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

const (
	kubernetesImage = "constellation.local/kubernetes@sha256:b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c"
	etcdImage       = "constellation.local/etcd@sha256:7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730"
)

func parameters() Parameters {
	return Parameters{
		NodeName: "node-1", NodeAddress: "10.77.0.2", Endpoint: "10.77.0.2:6443", ClusterName: "mine",
		PodNetwork: "10.244.0.0/16", ServiceNetwork: "10.96.0.0/12", KubernetesVersion: "1.37.2",
		Images: map[string]string{"kubernetes": kubernetesImage, "etcd": etcdImage},
	}
}

func render(t *testing.T, change func(*Parameters)) Files {
	t.Helper()
	p := parameters()
	if change != nil {
		change(&p)
	}
	files, err := Render(p)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// documents are those of kubeadm's file, by their kind.
func documents(t *testing.T, files Files, directory string) map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]any{}
	for _, document := range bytes.Split(files[ConfigFile(directory)], []byte("---\n")) {
		var content map[string]any
		if err := yaml.UnmarshalStrict(document, &content); err != nil {
			t.Fatal(err)
		}
		all[content["kind"].(string)] = content
	}
	return all
}

// at follows a path of keys.
func at(content any, path ...string) any {
	for _, key := range path {
		m, _ := content.(map[string]any)
		content = m[key]
	}
	return content
}

func TestWhereFilesAre(t *testing.T) {
	want := []string{
		"/etc/kubernetes/constellation/audit-policy.yaml",
		"/etc/kubernetes/constellation/authentication.yaml",
		"/etc/kubernetes/constellation/encryption.yaml",
		"/run/x/kubeadm.yaml",
		"/run/x/patches/etcd0+strategic.yaml",
		"/run/x/patches/kube-apiserver0+strategic.yaml",
		"/run/x/patches/kube-controller-manager0+strategic.yaml",
		"/run/x/patches/kube-scheduler0+strategic.yaml",
	}
	files := render(t, func(p *Parameters) { p.Directory = "/run/x" })
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(files))); diff != "" {
		t.Error(diff)
	}
	if got := at(documents(t, files, "/run/x")["InitConfiguration"], "patches", "directory"); got != "/run/x/patches" {
		t.Errorf("kubeadm looks for patches in %v", got)
	}
}

func TestParameters(t *testing.T) {
	d := documents(t, render(t, func(p *Parameters) {
		p.KubernetesVersion = "v1.37.10"
		p.APIServerNames = []string{"api.example.org", "192.0.2.7", "api.example.org"}
	}), DefaultDirectory)
	for _, test := range []struct {
		kind string
		path []string
		want any
	}{
		{"InitConfiguration", []string{"nodeRegistration", "name"}, "node-1"},
		{"InitConfiguration", []string{"nodeRegistration", "kubeletExtraArgs"}, []any{map[string]any{"name": "node-ip", "value": "10.77.0.2"}}},
		{"InitConfiguration", []string{"nodeRegistration", "taints"}, nil},
		{"InitConfiguration", []string{"localAPIEndpoint", "advertiseAddress"}, "10.77.0.2"},
		{"ClusterConfiguration", []string{"clusterName"}, "mine"},
		{"ClusterConfiguration", []string{"kubernetesVersion"}, "v1.37.10"},
		{"ClusterConfiguration", []string{"controlPlaneEndpoint"}, "10.77.0.2:6443"},
		{"ClusterConfiguration", []string{"networking"}, map[string]any{
			"dnsDomain": "cluster.local", "podSubnet": "10.244.0.0/16", "serviceSubnet": "10.96.0.0/12",
		}},
		{"ClusterConfiguration", []string{"apiServer", "certSANs"}, []any{"127.0.0.1", "192.0.2.7", "api.example.org", "localhost"}},
		{"KubeletConfiguration", []string{"clusterDNS"}, []any{"10.96.0.10"}},
	} {
		if diff := cmp.Diff(test.want, at(d[test.kind], test.path...)); diff != "" {
			t.Errorf("%s %v: %s", test.kind, test.path, diff)
		}
	}
}

// TestSingleNode: with no list of taints, kubeadm adds its own; with an empty one, none.
func TestSingleNode(t *testing.T) {
	d := documents(t, render(t, func(p *Parameters) { p.SingleNode = true }), DefaultDirectory)
	if taints, ok := at(d["InitConfiguration"], "nodeRegistration", "taints").([]any); !ok || len(taints) != 0 {
		t.Errorf("taints %v, want an empty list", taints)
	}
}

// TestEtcdMembers: one more node's etcd is told of the others, and nothing else differs.
func TestEtcdMembers(t *testing.T) {
	const members = "one=https://10.77.0.10:2380,two=https://10.77.0.11:2380"
	first, further := render(t, nil), render(t, func(p *Parameters) { p.EtcdMembers = members })
	flags := func(files Files) map[string]string {
		out := map[string]string{}
		list, _ := at(documents(t, files, DefaultDirectory)["ClusterConfiguration"], "etcd", "local", "extraArgs").([]any)
		for _, f := range list {
			out[at(f, "name").(string)] = at(f, "value").(string)
		}
		return out
	}
	want := flags(first)
	want["initial-cluster"], want["initial-cluster-state"] = members, "existing"
	if diff := cmp.Diff(want, flags(further)); diff != "" {
		t.Errorf("etcd's flags (-want +got):\n%s", diff)
	}
	delete(first, ConfigFile(DefaultDirectory))
	delete(further, ConfigFile(DefaultDirectory))
	if diff := cmp.Diff(first, further); diff != "" {
		t.Errorf("the other files (-want +got):\n%s", diff)
	}
}

func TestSameEveryTime(t *testing.T) {
	first := render(t, func(p *Parameters) { p.APIServerNames = []string{"a", "b"} })
	for range 10 {
		if diff := cmp.Diff(first, render(t, func(p *Parameters) { p.APIServerNames = []string{"b", "a"} })); diff != "" {
			t.Fatal(diff)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Parameters)
		want   string
	}{
		{"no name", func(p *Parameters) { p.NodeName = "" }, `name of the node "" is not of 1 to 63 lower-case letters, digits and dashes`},
		{"a name with a dot", func(p *Parameters) { p.NodeName = "a.b" }, `name of the node "a.b" is not of 1 to 63 lower-case letters, digits and dashes`},
		{"a name of 64", func(p *Parameters) { p.NodeName = strings.Repeat("a", 64) }, `name of the node "` + strings.Repeat("a", 64) + `" is not of 1 to 63 lower-case letters, digits and dashes`},
		{"YAML in a name", func(p *Parameters) { p.NodeName = "a\ntaints: []" }, `name of the node "a\ntaints: []" is not of 1 to 63 lower-case letters, digits and dashes`},
		{"cluster's name", func(p *Parameters) { p.ClusterName = "My Cluster" }, `name of the cluster "My Cluster" is not of 1 to 63 lower-case letters, digits and dashes`},
		{"no version", func(p *Parameters) { p.KubernetesVersion = "" }, `version of Kubernetes "" is not like 1.37.2`},
		{"a label", func(p *Parameters) { p.KubernetesVersion = "latest" }, `version of Kubernetes "latest" is not like 1.37.2`},
		{"a minor version", func(p *Parameters) { p.KubernetesVersion = "1.37" }, `version of Kubernetes "1.37" is not like 1.37.2`},
		{"an old version", func(p *Parameters) { p.KubernetesVersion = "1.36.4" }, `version of Kubernetes 1.36.4 is unknown: this node can set up 1.37`},
		{"a version like ours", func(p *Parameters) { p.KubernetesVersion = "1.370.2" }, `version of Kubernetes 1.370.2 is unknown: this node can set up 1.37`},
		{"relative directory", func(p *Parameters) { p.Directory = "kubeadm" }, `directory "kubeadm" is not a clean absolute path`},
		{"directory that climbs", func(p *Parameters) { p.Directory = "/run/../etc" }, `directory "/run/../etc" is not a clean absolute path`},
		{"network", func(p *Parameters) { p.PodNetwork = "10.96.0.0/16" }, "network of pods 10.96.0.0/16 and network of services 10.96.0.0/12 overlap"},
		{"address", func(p *Parameters) { p.NodeAddress = "10.244.0.2" }, "node's address 10.244.0.2 is in the network of pods 10.244.0.0/16"},
		{"endpoint", func(p *Parameters) { p.Endpoint = "10.77.0.2" }, `endpoint "10.77.0.2" is not HOST:PORT`},
		{"API server's name", func(p *Parameters) { p.APIServerNames = []string{"*.example.org"} }, `name of the API server: "*.example.org" is neither an address nor a DNS name`},
		{"many names", func(p *Parameters) { p.APIServerNames = make([]string, 65) }, "65 names of the API server, at most 64 are possible"},
		{"no images", func(p *Parameters) { p.Images = nil }, "kubernetes: no image is named"},
		{"no etcd", func(p *Parameters) { delete(p.Images, "etcd") }, "etcd: no image is named"},
		{"a tag", func(p *Parameters) { p.Images["etcd"] = "constellation.local/etcd:installed" }, `etcd: image "constellation.local/etcd:installed" is not named by its digest, as NAME@sha256:DIGEST`},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := parameters()
			test.change(&p)
			files, err := Render(p)
			if want := "configuration of kubeadm: " + test.want; err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			if files != nil {
				t.Error("files in spite of it")
			}
		})
	}
}

func TestWrite(t *testing.T) {
	root := t.TempDir()
	files := render(t, nil)
	old := Files{ConfigFile(DefaultDirectory): []byte("old")}
	if err := old.Write(root); err != nil {
		t.Fatal(err)
	}
	if err := files.Write(root); err != nil {
		t.Fatal(err)
	}
	seen := Files{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if entry.IsDir() {
			return nil
		}
		seen[strings.TrimPrefix(path, root)], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(files, seen); diff != "" {
		t.Error(diff)
	}
}

func TestWriteFails(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "run"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := Files{"/run/x/y": nil}.Write(root)
	if err == nil || !strings.HasPrefix(err.Error(), "write the configuration of kubeadm: mkdir ") {
		t.Errorf("got %v", err)
	}
}
