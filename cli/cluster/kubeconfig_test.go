// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/constellation-os/constellation/cli/cluster"
	"github.com/constellation-os/constellation/cli/cluster/nodetest"
)

func TestKubeconfig(t *testing.T) {
	c, err := cluster.ParseKubeconfig(nodetest.Kubeconfig("a"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := c.Kubeconfig("local", "127.0.0.1:6443")
	if err != nil {
		t.Fatal(err)
	}
	// As kubectl reads it.
	config, err := clientcmd.RESTConfigFromKubeConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != "https://127.0.0.1:6443" || !bytes.Equal(config.CAData, c.Authority) || !bytes.Equal(config.CertData, c.Certificate) || !bytes.Equal(config.KeyData, c.Key) {
		t.Errorf("kubectl reads %v", config)
	}
}

// TestNothingElseIsTaken: a kubeconfig can name programs that kubectl runs and files that
// it reads.
func TestNothingElseIsTaken(t *testing.T) {
	hostile := strings.Replace(string(nodetest.Kubeconfig("a")), "  user:\n", "  user:\n    exec: {apiVersion: client.authentication.k8s.io/v1, command: sh}\n    tokenFile: /etc/shadow\n", 1)
	hostile = strings.Replace(hostile, "  cluster:\n", "  cluster:\n    proxy-url: http://192.0.2.1\n    insecure-skip-tls-verify: true\n", 1)
	c, err := cluster.ParseKubeconfig([]byte(hostile))
	if err != nil {
		t.Fatal(err)
	}
	data, err := c.Kubeconfig("local", "127.0.0.1:6443")
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"exec", "command", "tokenFile", "proxy-url", "insecure"} {
		if bytes.Contains(data, []byte(word)) {
			t.Errorf("%q is in\n%s", word, data)
		}
	}
}

func TestParseKubeconfigRefuses(t *testing.T) {
	good := string(nodetest.Kubeconfig("a"))
	for _, tc := range []struct{ name, text, refusal string }{
		{"nothing", "", "0 clusters and 0 users, want one of each"},
		{"not YAML", "clusters: [", "not YAML of that form"},
		{"two users", good + "- x\n", "not YAML of that form"},
		{"no authority", strings.Replace(good, "certificate-authority-data", "certificate-authority", 1), "certificate-authority-data is missing"},
		{"not base64", strings.Replace(good, "client-key-data: ", "client-key-data: ?", 1), "client-key-data is missing, or not in base64"},
		{"not PEM", strings.Replace(good, "client-certificate-data: ", "client-certificate-data: AAAA", 1), "client-certificate-data is not in PEM"},
		{"too much", strings.Repeat(" ", 1<<20+1), "at most 1048576"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := cluster.ParseKubeconfig([]byte(tc.text))
			if err == nil || !strings.Contains(err.Error(), tc.refusal) {
				t.Errorf("got %v, want an error with %q", err, tc.refusal)
			}
		})
	}
}

func TestWriteKubeconfig(t *testing.T) {
	parse := func(name string) *cluster.Credentials {
		c, err := cluster.ParseKubeconfig(nodetest.Kubeconfig(name))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "kubeconfig")
	if err := parse("a").WriteKubeconfig(path, "a", "127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := parse("a").WriteKubeconfig(path, "a", "127.0.0.1:2"); err != nil {
		t.Errorf("of the same cluster: %v", err)
	}
	before, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(before, []byte("https://127.0.0.1:2")) {
		t.Errorf("it was not renewed: %v", err)
	}
	if err := parse("b").WriteKubeconfig(path, "b", "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "is not overwritten") {
		t.Errorf("of another cluster: %v", err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := parse("a").WriteKubeconfig(path, "a", "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "is not overwritten") {
		t.Errorf("over another file: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func FuzzParseKubeconfig(f *testing.F) {
	f.Add(nodetest.Kubeconfig("a"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := cluster.ParseKubeconfig(data)
		if err != nil {
			return
		}
		again, err := c.Kubeconfig("a", "127.0.0.1:1")
		if err != nil {
			t.Fatal(err)
		}
		d, err := cluster.ParseKubeconfig(again)
		if err != nil || !bytes.Equal(c.Authority, d.Authority) || !bytes.Equal(c.Certificate, d.Certificate) || !bytes.Equal(c.Key, d.Key) {
			t.Fatalf("what was written is read as something else: %v", err)
		}
	})
}
