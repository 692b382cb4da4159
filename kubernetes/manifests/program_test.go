// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package manifests

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/constellation-os/constellation/kubernetes/controlplanetest"
)

// program is a path from the environment.
func program(t *testing.T, variable string) string {
	t.Helper()
	path, err := filepath.Abs(os.Getenv(variable))
	if err != nil || os.Getenv(variable) == "" {
		t.Fatalf("%s is not set: %v", variable, err)
	}
	return path
}

// TestKubeProxyTakesItsConfiguration: the real one knows every field. It would go on
// with a field that it does not know, and says so.
func TestKubeProxyTakesItsConfiguration(t *testing.T) {
	text, _, _ := unstructured.NestedString(find(t, render(t, nil), "ConfigMap kube-system/kube-proxy").Object, "data", "config.yaml")
	convert := func(text string) (log string, content map[string]any) {
		in, out := filepath.Join(t.TempDir(), "in.yaml"), filepath.Join(t.TempDir(), "out.yaml")
		if err := os.WriteFile(in, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var stderr bytes.Buffer
		cmd := exec.CommandContext(t.Context(), program(t, "CONSTELLATION_KUBERNETES"), "kube-proxy", "--config", in, "--write-config-to", out)
		cmd.Stderr = &stderr
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %s", err, stderr.String())
		}
		data, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(data, &content); err != nil {
			t.Fatal(err)
		}
		return stderr.String(), content
	}
	const lenient = "lenient"
	log, content := convert(text)
	if strings.Contains(log, lenient) || content["mode"] != "nftables" || content["clusterCIDR"] != "10.244.0.0/16" {
		t.Errorf("taken as %v: %s", content, log)
	}
	if log, _ := convert(text + "mod: nftables\n"); !strings.Contains(log, lenient) {
		t.Errorf("an unknown field, and it says %q", log)
	}
}

// TestCoreDNSAnswers runs the real one with its configuration and its service
// account's rights.
func TestCoreDNSAnswers(t *testing.T) {
	c, objects := start(t)
	c.ServiceAccount(t, "default", "default")
	c.Create(t, "/api/v1/namespaces/default/services", map[string]any{
		"metadata": map[string]any{"name": "web"},
		"spec":     map[string]any{"clusterIP": "None", "ports": []any{map[string]any{"name": "http", "port": 80}}},
	})
	c.Create(t, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", map[string]any{
		"metadata":    map[string]any{"name": "web-1", "labels": map[string]any{"kubernetes.io/service-name": "web"}},
		"addressType": "IPv4", "ports": []any{map[string]any{"name": "http", "port": 80}},
		"endpoints": []any{map[string]any{"addresses": []string{"10.244.0.7"}, "conditions": map[string]any{"ready": true}}},
	})
	resolver := runCoreDNS(t, c, objects)
	for name, want := range map[string]string{
		"kubernetes.default.svc.cluster.local.":     "10.96.0.1",
		"kube-dns.kube-system.svc.cluster.local.":   "10.96.0.10",
		"keyservice.kube-system.svc.cluster.local.": "",
		"web.default.svc.cluster.local.":            "10.244.0.7",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		got, err := resolver.LookupHost(ctx, name)
		cancel()
		if err != nil || want != "" && !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %v, %v, want %s", name, got, err, want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if got, err := resolver.LookupHost(ctx, "nothing.default.svc.cluster.local."); err == nil || !strings.Contains(err.Error(), "no such host") {
		t.Errorf("what is not there: %v, %v", got, err)
	}
}

// runCoreDNS runs it until the test ends; what differs from a pod are ports, and the
// files that a pod finds at fixed places.
func runCoreDNS(t *testing.T, c *controlplanetest.Cluster, objects []*unstructured.Unstructured) *net.Resolver {
	t.Helper()
	text, _, _ := unstructured.NestedString(find(t, objects, "ConfigMap kube-system/coredns").Object, "data", "Corefile")
	resolvConf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolvConf, []byte("nameserver 192.0.2.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ports := map[string]int{}
	for _, port := range []string{":1053", ":8080", ":8181", ":9153"} {
		ports[port] = freePort(t)
		if !strings.Contains(text, port) {
			t.Fatalf("no port %s in %s", port, text)
		}
		text = strings.Replace(text, port, fmt.Sprintf(":%d", ports[port]), 1)
	}
	text = strings.Replace(text, "/etc/resolv.conf", resolvConf, 1)
	token := c.Token(t, "kube-system", "coredns", "https://kubernetes.default.svc")
	text = strings.Replace(text, "pods disabled", "pods disabled\nkubeconfig "+c.Kubeconfig(t, token), 1)
	corefile := filepath.Join(t.TempDir(), "Corefile")
	if err := os.WriteFile(corefile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(program(t, "CONSTELLATION_COREDNS"), "-conf", corefile)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("coredns: %s", log.String())
		}
	})
	awaitReady(t, fmt.Sprintf("http://127.0.0.1:%d/ready", ports[":8181"]))
	address := fmt.Sprintf("127.0.0.1:%d", ports[":1053"])
	// It says that it is ready just before it listens.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
}
