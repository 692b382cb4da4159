// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// Each image has a digest of its own, so that a mix-up shows.
var images = map[string]string{
	"coredns":             "constellation.local/coredns@sha256:" + strings.Repeat("1", 64),
	"flannel":             "constellation.local/flannel@sha256:" + strings.Repeat("2", 64),
	"keyservice":          "constellation.local/keyservice@sha256:" + strings.Repeat("3", 64),
	"kubernetes":          "constellation.local/kubernetes@sha256:" + strings.Repeat("4", 64),
	"joinservice":         "constellation.local/joinservice@sha256:" + strings.Repeat("5", 64),
	"verificationservice": "constellation.local/verificationservice@sha256:" + strings.Repeat("6", 64),
}

func parameters() Parameters {
	copied := map[string]string{}
	for name, image := range images {
		copied[name] = image
	}
	return Parameters{Images: copied, PodNetwork: "10.244.0.0/16", ServiceNetwork: "10.96.0.0/12", Endpoint: "10.77.0.2:6443"}
}

func render(t *testing.T, change func(*Parameters)) []*unstructured.Unstructured {
	t.Helper()
	p := parameters()
	if change != nil {
		change(&p)
	}
	objects, err := Render(p)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func find(t *testing.T, objects []*unstructured.Unstructured, want string) *unstructured.Unstructured {
	t.Helper()
	for _, o := range objects {
		if name(o) == want {
			return o
		}
	}
	t.Fatalf("no %s", want)
	return nil
}

// file reads a file in a config map.
func file(t *testing.T, objects []*unstructured.Unstructured, configMap, key string) map[string]any {
	t.Helper()
	text, _, _ := unstructured.NestedString(find(t, objects, "ConfigMap kube-system/"+configMap).Object, "data", key)
	var content map[string]any
	if err := yaml.UnmarshalStrict([]byte(text), &content); err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return content
}

func TestNetworks(t *testing.T) {
	objects := render(t, func(p *Parameters) { p.PodNetwork, p.ServiceNetwork = "10.200.0.0/16", "172.20.0.0/16" })
	network := file(t, objects, "flannel", "net-conf.json")
	backend, _ := network["Backend"].(map[string]any)
	if network["Network"] != "10.200.0.0/16" || backend["Type"] != "wireguard" {
		t.Errorf("flannel: %v", network)
	}
	containers, _, _ := unstructured.NestedSlice(find(t, objects, "DaemonSet kube-system/flannel").Object, "spec", "template", "spec", "containers")
	if args := containers[0].(map[string]any)["args"]; !cmp.Equal(args, []any{"-services=172.20.0.0/16"}) {
		t.Errorf("flannel's arguments: %v", args)
	}
	proxy := file(t, objects, "kube-proxy", "config.yaml")
	if proxy["clusterCIDR"] != "10.200.0.0/16" || proxy["mode"] != "nftables" {
		t.Errorf("kube-proxy: %v", proxy)
	}
	clusters, _ := file(t, objects, "kube-proxy", "kubeconfig.yaml")["clusters"].([]any)
	want := []any{map[string]any{"name": "default", "cluster": map[string]any{
		"server": "https://10.77.0.2:6443", "certificate-authority": "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
	}}}
	if diff := cmp.Diff(want, clusters); diff != "" {
		t.Error(diff)
	}
	if address, _, _ := unstructured.NestedString(find(t, objects, "Service kube-system/kube-dns").Object, "spec", "clusterIP"); address != "172.20.0.10" {
		t.Errorf("name server at %s", address)
	}
}

func TestNameServers(t *testing.T) {
	for single, want := range map[bool]int64{false: 2, true: 1} {
		objects := render(t, func(p *Parameters) { p.SingleNode = single })
		if got, _, _ := unstructured.NestedInt64(find(t, objects, "Deployment kube-system/coredns").Object, "spec", "replicas"); got != want {
			t.Errorf("single node %v: %d name servers, want %d", single, got, want)
		}
	}
}

func TestSameEveryTime(t *testing.T) {
	first := render(t, nil)
	for range 10 {
		if diff := cmp.Diff(first, render(t, nil)); diff != "" {
			t.Fatal(diff)
		}
	}
}

// TestConfigurationIsNoted: a pod does not look at its configuration again, so a
// changed one must change the pod.
func TestConfigurationIsNoted(t *testing.T) {
	note := func(objects []*unstructured.Unstructured, workload string) string {
		text, _, _ := unstructured.NestedString(find(t, objects, workload).Object, "spec", "template", "metadata", "annotations", configAnnotation)
		return text
	}
	one, two := render(t, nil), render(t, func(p *Parameters) { p.PodNetwork = "10.245.0.0/16" })
	for workload, changed := range map[string]bool{
		"DaemonSet kube-system/flannel": true, "DaemonSet kube-system/kube-proxy": true,
		"Deployment kube-system/coredns": false, "DaemonSet kube-system/keyservice": false, "DaemonSet kube-system/joinservice": false,
	} {
		if a, b := note(one, workload), note(two, workload); len(a) != 64 || (a != b) != changed {
			t.Errorf("%s: %q, then %q", workload, a, b)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Parameters)
		want   string
	}{
		{"no images", func(p *Parameters) { p.Images = nil }, "coredns: no image is named"},
		{"no JoinService", func(p *Parameters) { delete(p.Images, "joinservice") }, "joinservice: no image is named"},
		{"no KeyService", func(p *Parameters) { delete(p.Images, "keyservice") }, "keyservice: no image is named"},
		{"a tag", func(p *Parameters) { p.Images["flannel"] = "constellation.local/flannel:installed" }, `flannel: image "constellation.local/flannel:installed" is not named by its digest, as NAME@sha256:DIGEST`},
		{"YAML in an image", func(p *Parameters) { p.Images["kubernetes"] += "\nprivileged: true" }, `kubernetes: image "` + images["kubernetes"] + `\nprivileged: true" is not named by its digest, as NAME@sha256:DIGEST`},
		{"no network", func(p *Parameters) { p.PodNetwork = "" }, `network of pods "" is not in CIDR notation, such as 10.1.0.0/16`},
		{"YAML in a network", func(p *Parameters) { p.ServiceNetwork = "10.96.0.0/12\"}" }, `network of services "10.96.0.0/12\"}" is not in CIDR notation, such as 10.1.0.0/16`},
		{"endpoint", func(p *Parameters) { p.Endpoint = "https://10.77.0.2:6443" }, `endpoint "https://10.77.0.2:6443" is not HOST:PORT`},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := parameters()
			test.change(&p)
			objects, err := Render(p)
			if want := "manifests: " + test.want; err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			if objects != nil {
				t.Error("objects in spite of it")
			}
		})
	}
}

// What a pod may do beyond the least. Everything that is added here is a decision.
var (
	capabilities = map[string][]string{"flannel": {"NET_ADMIN"}, "kube-proxy": {"NET_ADMIN"}}
	hostNetwork  = []string{"flannel", "joinservice", "kube-proxy"}
	root         = []string{"flannel", "joinservice", "keyservice", "kube-proxy", "verificationservice"}
	// For the TPM, which Kubernetes gives to no other pod.
	privileged = []string{"joinservice", "verificationservice"}
	hostPaths  = map[string][]string{
		"flannel":             {"/run/flannel", "/etc/cni/net.d"},
		"joinservice":         {"/etc/kubernetes/pki", "/run/constellation/keyservice/master", "/dev/tpmrm0", "/sys/kernel/security"},
		"keyservice":          {"/run/constellation/keyservice/tls", "/run/constellation/keyservice/master"},
		"verificationservice": {"/dev/tpmrm0", "/sys/kernel/security/tpm0/binary_bios_measurements"},
	}
	imageOf = map[string]string{
		"coredns": "coredns", "flannel": "flannel", "joinservice": "joinservice", "keyservice": "keyservice", "kube-proxy": "kubernetes",
		"verificationservice": "verificationservice",
	}
)

type podSpec struct {
	HostNetwork, HostPID, HostIPC bool
	Containers, InitContainers    []struct {
		Image, ImagePullPolicy string
		SecurityContext        securityContext
	}
	Volumes []struct{ HostPath *struct{ Path string } }
}

type securityContext struct {
	Privileged, AllowPrivilegeEscalation, ReadOnlyRootFilesystem, RunAsNonRoot *bool
	RunAsUser                                                                  *int64
	Capabilities                                                               struct{ Drop, Add []string }
	SeccompProfile                                                             struct{ Type string }
}

func TestRightsOfPods(t *testing.T) {
	seen := 0
	for _, o := range render(t, nil) {
		template, found, err := unstructured.NestedMap(o.Object, "spec", "template", "spec")
		if err != nil || !found {
			continue
		}
		seen++
		var spec podSpec
		data, err := json.Marshal(template)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &spec); err != nil {
			t.Fatal(err)
		}
		t.Run(o.GetName(), func(t *testing.T) { checkRights(t, o.GetName(), spec) })
	}
	if seen != len(imageOf) {
		t.Errorf("%d workloads, want %d", seen, len(imageOf))
	}
}

func checkRights(t *testing.T, name string, spec podSpec) {
	if spec.HostPID || spec.HostIPC || spec.HostNetwork != slices.Contains(hostNetwork, name) {
		t.Errorf("shares with the node: network %v, processes %v, IPC %v", spec.HostNetwork, spec.HostPID, spec.HostIPC)
	}
	if len(spec.Containers) != 1 || len(spec.InitContainers) != 0 {
		t.Fatalf("%d containers and %d before them", len(spec.Containers), len(spec.InitContainers))
	}
	c := spec.Containers[0]
	if c.Image != images[imageOf[name]] || c.ImagePullPolicy != "Never" {
		t.Errorf("image %s, pulled %s", c.Image, c.ImagePullPolicy)
	}
	s := c.SecurityContext
	isPrivileged := s.Privileged != nil && *s.Privileged
	if isPrivileged != slices.Contains(privileged, name) {
		t.Errorf("privileged: %v", isPrivileged)
	}
	if !isPrivileged {
		checkConfined(t, name, s)
	}
	if s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
		t.Error("can write to its root")
	}
	isRoot := s.RunAsUser == nil || *s.RunAsUser == 0
	if isRoot != slices.Contains(root, name) || !isRoot && (s.RunAsNonRoot == nil || !*s.RunAsNonRoot) {
		t.Errorf("runs as %v", s.RunAsUser)
	}
	var paths []string
	for _, v := range spec.Volumes {
		if v.HostPath != nil {
			paths = append(paths, v.HostPath.Path)
		}
	}
	if diff := cmp.Diff(hostPaths[name], paths); diff != "" {
		t.Error(diff)
	}
}

// checkConfined checks what is of no effect in a privileged container.
func checkConfined(t *testing.T, name string, s securityContext) {
	if s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation {
		t.Error("can gain privileges")
	}
	if s.SeccompProfile.Type != "RuntimeDefault" {
		t.Errorf("seccomp %q", s.SeccompProfile.Type)
	}
	if diff := cmp.Diff([]string{"ALL"}, s.Capabilities.Drop); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(capabilities[name], s.Capabilities.Add); diff != "" {
		t.Error(diff)
	}
}

// What our own services may ask for together, and each may use at most, in MiB.
const allMemory, mostMemory = 96, 96

// TestMemory: our own services are small.
func TestMemory(t *testing.T) {
	sum := int64(0)
	for _, service := range []string{"joinservice", "keyservice", "verificationservice"} {
		containers, _, _ := unstructured.NestedSlice(find(t, render(t, nil), "DaemonSet kube-system/"+service).Object, containers...)
		for what, most := range map[string]int64{"requests": allMemory, "limits": mostMemory} {
			text, _, _ := unstructured.NestedString(containers[0].(map[string]any), "resources", what, "memory")
			q, err := resource.ParseQuantity(text)
			if err != nil || q.Value() > most<<20 {
				t.Errorf("%s %s %s, %v, at most %d MiB", service, what, text, err, most)
			}
			if what == "requests" {
				sum += q.Value()
			}
		}
	}
	if sum == 0 || sum > allMemory<<20 {
		t.Errorf("they ask for %d bytes together, at most %d MiB", sum, allMemory)
	}
}
