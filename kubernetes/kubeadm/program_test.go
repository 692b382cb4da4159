// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package kubeadm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// run runs the real kubeadm.
func run(t *testing.T, dryRun string, args ...string) (string, error) {
	t.Helper()
	program, err := filepath.Abs(os.Getenv("CONSTELLATION_KUBEADM"))
	if err != nil || os.Getenv("CONSTELLATION_KUBEADM") == "" {
		t.Fatalf("CONSTELLATION_KUBEADM is not set, as by tools/bazel build //kubernetes/components:kubeadm: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), "KUBEADM_INIT_DRYRUN_DIR="+dryRun)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// node writes the files below a folder that stands for a node's root, and returns
// the path of kubeadm's.
func node(t *testing.T, files Files) (root, config string) {
	t.Helper()
	root = t.TempDir()
	writeBelow(t, root, files)
	return root, root + ConfigFile(DefaultDirectory)
}

// TestKubeadmTakesIt: kubeadm and its copy of kubelet's configuration know every
// field, and all values are valid.
func TestKubeadmTakesIt(t *testing.T) {
	for name, change := range map[string]func(*Parameters){
		"as on a node": nil,
		"single node":  func(p *Parameters) { p.SingleNode = true },
		"names":        func(p *Parameters) { p.APIServerNames = []string{"api.example.org", "192.0.2.7", "fd00::1"} },
	} {
		root := t.TempDir()
		if err := render(t, change).Write(root); err != nil {
			t.Fatal(err)
		}
		if out, err := run(t, "", "config", "validate", "--config", root+ConfigFile(DefaultDirectory)); err != nil || out != "ok\n" {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
	// It would say so if it were otherwise.
	for field, says := range map[string]string{"seccompDefault": `unknown field "x"`, "encryptionAlgorithm": `unknown field "x"`, "dataDir": `unknown field "etcd.local.x"`} {
		files := render(t, nil)
		path := ConfigFile(DefaultDirectory)
		files[path] = bytes.Replace(files[path], []byte(field+":"), []byte("x:"), 1)
		_, config := node(t, files)
		if out, err := run(t, "", "config", "validate", "--config", config); err == nil || !strings.Contains(out, says) {
			t.Errorf("without %s: %v: %s", field, err, out)
		}
	}
}

type staticPod struct {
	Spec struct {
		HostNetwork     bool
		SecurityContext struct{ SeccompProfile struct{ Type string } }
		Containers      []struct {
			Name, Image, ImagePullPolicy string
			Command                      []string
			SecurityContext              map[string]any
			Resources                    struct{ Requests map[string]string }
			ReadinessProbe               *struct {
				HTTPGet       map[string]any
				PeriodSeconds int
			}
			VolumeMounts []struct {
				MountPath string
				ReadOnly  bool
			}
		}
	}
}

// TestStaticPods: what kubeadm makes of configuration and patches.
func TestStaticPods(t *testing.T) {
	_, config := node(t, render(t, nil))
	out := t.TempDir()
	for _, phase := range [][]string{{"etcd", "local"}, {"control-plane", "all"}} {
		if text, err := run(t, out, append([]string{"init", "phase", phase[0], phase[1], "--dry-run", "--config"}, config)...); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	for component, test := range map[string]struct {
		image    string
		flags    []string
		writable []string
	}{
		"etcd": {etcdImage, []string{
			"--client-cert-auth=true", "--peer-client-cert-auth=true", "--tls-min-version=TLS1.3",
			"--listen-client-urls=https://127.0.0.1:2379,https://10.77.0.2:2379", "--listen-metrics-urls=http://127.0.0.1:2381",
			"--heartbeat-interval=500", "--election-timeout=2500",
		}, []string{"/etc/kubernetes/pki/etcd", "/var/lib/etcd"}},
		"kube-apiserver": {kubernetesImage, []string{
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--tls-min-version=VersionTLS13", "--profiling=false",
			"--advertise-address=10.77.0.2", "--service-cluster-ip-range=10.96.0.0/12",
		}, []string{"/var/log/kubernetes/audit"}},
		"kube-controller-manager": {kubernetesImage, []string{
			"--bind-address=127.0.0.1", "--tls-min-version=VersionTLS13", "--profiling=false", "--use-service-account-credentials=true",
			"--allocate-node-cidrs=true", "--cluster-cidr=10.244.0.0/16", "--leader-elect-renew-deadline=40s",
		}, nil},
		"kube-scheduler": {kubernetesImage, []string{"--bind-address=127.0.0.1", "--tls-min-version=VersionTLS13", "--profiling=false"}, nil},
	} {
		t.Run(component, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join(out, component+".yaml"))
			if err != nil {
				t.Fatal(err)
			}
			var p staticPod
			if err := yaml.Unmarshal(data, &p); err != nil {
				t.Fatal(err)
			}
			checkStaticPod(t, p, component, test.image, test.flags, test.writable)
		})
	}
}

// TestFurtherNode: from what all nodes of a control plane share, kubeadm makes the files of
// one more: it keeps the authorities, and etcd begins as a member of those that are there.
func TestFurtherNode(t *testing.T) {
	const members = "cp-1=https://10.77.0.2:2380,cp-2=https://10.77.0.3:2380"
	certificates := func(name, address string, shared map[string][]byte) string {
		t.Helper()
		files := render(t, func(p *Parameters) { p.NodeName, p.NodeAddress, p.EtcdMembers = name, address, members })
		root, config := node(t, files)
		pki := filepath.Join(root, "etc/kubernetes/pki")
		if err := Files(shared).Write(pki); err != nil {
			t.Fatal(err)
		}
		if text, err := run(t, "", "init", "phase", "certs", "all", "--config", config); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		return pki
	}
	first := certificates("cp-1", "10.77.0.2", nil)
	shared := map[string][]byte{}
	for _, path := range []string{"ca.crt", "ca.key", "sa.key", "sa.pub", "front-proxy-ca.crt", "front-proxy-ca.key", "etcd/ca.crt", "etcd/ca.key"} {
		content, err := os.ReadFile(filepath.Join(first, path))
		if err != nil {
			t.Fatal(err)
		}
		shared[path] = content
	}
	second := certificates("cp-2", "10.77.0.3", shared)
	for path, want := range shared {
		if got, err := os.ReadFile(filepath.Join(second, path)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is another: %v", path, err)
		}
	}
	authority, peer := readCertificate(t, filepath.Join(first, "etcd/ca.crt")), readCertificate(t, filepath.Join(second, "etcd/peer.crt"))
	if err := peer.CheckSignatureFrom(authority); err != nil {
		t.Error(err)
	}
	if err := peer.VerifyHostname("10.77.0.3"); err != nil {
		t.Error(err)
	}

	_, config := node(t, render(t, func(p *Parameters) { p.NodeName, p.NodeAddress, p.EtcdMembers = "cp-2", "10.77.0.3", members }))
	out := t.TempDir()
	if text, err := run(t, out, "init", "phase", "etcd", "local", "--dry-run", "--config", config); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	data, err := os.ReadFile(filepath.Join(out, "etcd.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, flag := range []string{"--initial-cluster=" + members, "--initial-cluster-state=existing", "--name=cp-2", "--initial-advertise-peer-urls=https://10.77.0.3:2380"} {
		if strings.Count(string(data), "- "+flag+"\n") != 1 {
			t.Errorf("etcd does not have %s once:\n%s", flag, data)
		}
	}
}

func readCertificate(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func checkStaticPod(t *testing.T, p staticPod, component, image string, flags, writable []string) {
	if len(p.Spec.Containers) != 1 || p.Spec.SecurityContext.SeccompProfile.Type != "RuntimeDefault" {
		t.Fatalf("%d containers, seccomp %q", len(p.Spec.Containers), p.Spec.SecurityContext.SeccompProfile.Type)
	}
	c := p.Spec.Containers[0]
	if c.Name != component || c.Command[0] != component || c.Image != image || c.ImagePullPolicy != "Never" {
		t.Errorf("container %s runs %s of %s, pulled %s", c.Name, c.Command[0], c.Image, c.ImagePullPolicy)
	}
	for _, flag := range flags {
		if !slices.Contains(c.Command, flag) {
			t.Errorf("no %s in %q", flag, c.Command)
		}
	}
	want := map[string]any{
		"runAsUser": 0.0, "runAsGroup": 0.0, "privileged": false, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
		"capabilities": map[string]any{"drop": []any{"ALL"}},
	}
	if diff := cmp.Diff(want, c.SecurityContext); diff != "" {
		t.Error(diff)
	}
	// The controller manager has none, and a part of one is no pod.
	if p := c.ReadinessProbe; (p == nil) != (component == "kube-controller-manager") || p != nil && (len(p.HTTPGet) == 0 || p.PeriodSeconds != 5) {
		t.Errorf("readiness is asked for by %+v", p)
	}
	if got := slices.Sorted(maps.Keys(c.Resources.Requests)); !slices.Equal(got, []string{"cpu", "memory"}) {
		t.Errorf("requests %v", got)
	}
	var can []string
	for _, m := range c.VolumeMounts {
		if _, path, _ := strings.Cut(m.MountPath, "/0"); !m.ReadOnly {
			// Below the folder that stands for the root.
			can = append(can, path[strings.Index(path, "/"):])
		}
	}
	slices.Sort(can)
	if diff := cmp.Diff(writable, can); diff != "" {
		t.Errorf("writes to %s", diff)
	}
}

// TestCertificates has kubeadm make them.
func TestCertificates(t *testing.T) {
	root, config := node(t, render(t, func(p *Parameters) {
		p.APIServerNames, p.Endpoint = []string{"api.example.org", "192.0.2.7"}, "cluster.example.org:6443"
	}))
	if out, err := run(t, "", "init", "phase", "certs", "all", "--config", config); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(root + "/etc/kubernetes/pki/apiserver.crt")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"api.example.org", "192.0.2.7", "cluster.example.org", "127.0.0.1", "localhost", "10.77.0.2", "node-1",
		"10.96.0.1", "kubernetes.default.svc.cluster.local",
	} {
		if err := certificate.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if key, ok := certificate.PublicKey.(*ecdsa.PublicKey); !ok || key.Params().Name != "P-256" {
		t.Errorf("key %T", certificate.PublicKey)
	}
	signing, err := os.ReadFile(root + "/etc/kubernetes/pki/sa.pub")
	if err != nil {
		t.Fatal(err)
	}
	block, _ = pem.Decode(signing)
	if key, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil {
		t.Error(err)
	} else if _, ok := key.(*ecdsa.PublicKey); !ok {
		t.Errorf("tokens are signed with a key %T", key)
	}
}
