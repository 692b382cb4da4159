// SPDX-License-Identifier: Apache-2.0

// Package controlplanetest runs a real etcd and a real kube-apiserver for tests,
// on loopback, with RBAC and service-account tokens as in a cluster. There are no
// nodes and no controllers. The environment names the programs:
// CONSTELLATION_ETCD and CONSTELLATION_KUBE_APISERVER, for example
//
//	tools/bazel build //kubernetes/components:etcd //kubernetes/components:kube-apiserver
//
// No program that ships may link this package.
package controlplanetest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// ready is how long a program may take until it answers.
const ready = 2 * time.Minute

// Cluster is a control plane without nodes.
type Cluster struct {
	// Dir holds everything; it goes with the test.
	Dir string
	// Admin may do everything.
	Admin *rest.Config

	etcdURL string
	port    int
	pki     *PKI
	api     *process
	flags   []string
}

// Start runs a control plane until the test ends. The flags are added to those of
// kube-apiserver.
func Start(t testing.TB, flags ...string) *Cluster {
	t.Helper()
	dir := t.TempDir()
	c := &Cluster{Dir: dir, pki: NewPKI(t, dir), flags: flags}
	client, peer := freePort(t), freePort(t)
	c.etcdURL = fmt.Sprintf("http://127.0.0.1:%d", client)
	peerURL := fmt.Sprintf("http://127.0.0.1:%d", peer)
	run(t, "etcd", program(t, "CONSTELLATION_ETCD"), "--data-dir", filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--log-level", "warn",
		"--listen-client-urls", c.etcdURL, "--advertise-client-urls", c.etcdURL,
		"--listen-peer-urls", peerURL, "--initial-advertise-peer-urls", peerURL, "--initial-cluster", "default="+peerURL)
	waitFor(t, "etcd", func() error { return get(http.DefaultClient, c.etcdURL+"/health") })
	c.port = freePort(t)
	c.Admin = &rest.Config{
		Host:            fmt.Sprintf("https://127.0.0.1:%d", c.port),
		TLSClientConfig: rest.TLSClientConfig{CAFile: c.pki.CAFile, CertFile: c.pki.AdminCertFile, KeyFile: c.pki.AdminKeyFile},
		QPS:             -1,
	}
	c.StartAPIServer(t)
	return c
}

// CAFile is the cluster's authority.
func (c *Cluster) CAFile() string { return c.pki.CAFile }

// PKI is the cluster's.
func (c *Cluster) PKI() *PKI { return c.pki }

// StartAPIServer starts kube-apiserver and waits until it is ready.
func (c *Cluster) StartAPIServer(t testing.TB) {
	t.Helper()
	c.LaunchAPIServer(t)
	waitFor(t, "kube-apiserver", func() error {
		if c.api.ended() {
			t.Fatal("kube-apiserver ended")
		}
		return c.Do(t.Context(), http.MethodGet, "/readyz", nil, nil)
	})
}

// LaunchAPIServer starts kube-apiserver and does not wait.
func (c *Cluster) LaunchAPIServer(t testing.TB) {
	t.Helper()
	args := append([]string{
		"--etcd-servers", c.etcdURL, "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--secure-port", fmt.Sprint(c.port),
		"--tls-cert-file", c.pki.ServerCertFile, "--tls-private-key-file", c.pki.ServerKeyFile, "--client-ca-file", c.pki.CAFile,
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", c.pki.TokenKeyFile,
		"--service-account-signing-key-file", c.pki.TokenKeyFile, "--authorization-mode", "RBAC",
		"--service-cluster-ip-range", "10.96.0.0/24", "--endpoint-reconciler-type", "none", "--profiling=false",
	}, c.flags...)
	c.api = run(t, "kube-apiserver", program(t, "CONSTELLATION_KUBE_APISERVER"), args...)
}

// WaitForLog waits until kube-apiserver has written a text.
func (c *Cluster) WaitForLog(t testing.TB, text string) {
	t.Helper()
	waitFor(t, "kube-apiserver's log of "+text, func() error {
		data, err := os.ReadFile(c.api.log)
		if err == nil && !bytes.Contains(data, []byte(text)) {
			err = fmt.Errorf("not in %d bytes of log", len(data))
		}
		return err
	})
}

// StopAPIServer ends kube-apiserver at once.
func (c *Cluster) StopAPIServer() { c.api.stop(syscall.SIGKILL) }

// Do makes a request as administrator. Body and answer are JSON; nil for none.
func (c *Cluster) Do(ctx context.Context, method, path string, body, answer any) error {
	client, err := rest.HTTPClientFor(c.Admin)
	if err != nil {
		return err
	}
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(data)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.Admin.Host+path, content)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %.500s", method, path, resp.Status, data)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(data, answer)
}

// Create creates an object at a path of the API.
func (c *Cluster) Create(t testing.TB, path string, object map[string]any) {
	t.Helper()
	if err := c.Do(t.Context(), http.MethodPost, path, object, nil); err != nil {
		t.Fatal(err)
	}
}

// Named makes the smallest object.
func Named(name string) map[string]any {
	return map[string]any{"metadata": map[string]any{"name": name}}
}

// Namespace creates one.
func (c *Cluster) Namespace(t testing.TB, name string) {
	t.Helper()
	c.Create(t, "/api/v1/namespaces", Named(name))
}

// ServiceAccount creates one.
func (c *Cluster) ServiceAccount(t testing.TB, namespace, name string) {
	t.Helper()
	c.Create(t, "/api/v1/namespaces/"+namespace+"/serviceaccounts", Named(name))
}

// Token is what the kubelet would project into a pod of the service account.
func (c *Cluster) Token(t testing.TB, namespace, name, audience string) string {
	t.Helper()
	var answer struct {
		Status struct {
			Token string `json:"token"`
		} `json:"status"`
	}
	request := map[string]any{"spec": map[string]any{"audiences": []string{audience}, "expirationSeconds": 3600}}
	if err := c.Do(t.Context(), http.MethodPost, "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+name+"/token", request, &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Status.Token
}

// As is the configuration of a client with a token.
func (c *Cluster) As(token string) *rest.Config {
	return &rest.Config{Host: c.Admin.Host, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAFile: c.pki.CAFile}, QPS: -1}
}

// Stored is what etcd holds under a key, with all its history gone; nil if nothing.
func (c *Cluster) Stored(t testing.TB, key string) []byte {
	t.Helper()
	body := fmt.Sprintf(`{"key":%q}`, base64.StdEncoding.EncodeToString([]byte(key)))
	resp, err := http.Post(c.etcdURL+"/v3/kv/range", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		KVs []struct {
			Value []byte `json:"value"`
		} `json:"kvs"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("etcd: %s, %v", resp.Status, err)
	}
	if len(answer.KVs) == 0 {
		return nil
	}
	return answer.KVs[0].Value
}

// Store has etcd hold a value under a key, as somebody could who can write to it.
func (c *Cluster) Store(t testing.TB, key string, value []byte) {
	t.Helper()
	encode := base64.StdEncoding.EncodeToString
	resp, err := http.Post(c.etcdURL+"/v3/kv/put", "application/json", strings.NewReader(fmt.Sprintf(`{"key":%q,"value":%q}`, encode([]byte(key)), encode(value))))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("etcd: %s", resp.Status)
	}
}

func program(t testing.TB, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		t.Fatalf("%s is not set: see the comment of package controlplanetest", variable)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func get(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}

// waitFor polls, for neither program says when it is ready.
func waitFor(t testing.TB, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(ready)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not ready after %v: %v", what, ready, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) stop(s os.Signal) {
	p.cmd.Process.Signal(s)
	<-p.done
}

// run runs a program until the test ends; its last output is shown if the test failed.
func run(t testing.TB, name, path string, args ...string) *process {
	t.Helper()
	log, err := os.CreateTemp(t.TempDir(), name)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd, log.Name(), make(chan struct{})}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.stop(syscall.SIGKILL)
		if data, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("%s: …%s", name, data[max(0, len(data)-4000):])
		}
		log.Close()
	})
	return p
}

// Kubeconfig writes one for a client with a token.
func (c *Cluster) Kubeconfig(t testing.TB, token string) string {
	t.Helper()
	config := map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "test",
		"contexts": []any{map[string]any{"name": "test", "context": map[string]any{"cluster": "test", "user": "test"}}},
		"clusters": []any{map[string]any{"name": "test", "cluster": map[string]any{"server": c.Admin.Host, "certificate-authority": c.pki.CAFile}}},
		"users":    []any{map[string]any{"name": "test", "user": map[string]any{"token": token}}},
	}
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// WaitUntilAllowed waits until the API server lets a service account do something: it
// learns of a role's binding a moment after it was created. The namespace in which it
// is to be allowed is empty for what is in none.
func (c *Cluster) WaitUntilAllowed(t testing.TB, namespace, name, verb, group, resource, in string) {
	t.Helper()
	review := map[string]any{"spec": map[string]any{
		"user":               "system:serviceaccount:" + namespace + ":" + name,
		"resourceAttributes": map[string]any{"verb": verb, "group": group, "resource": resource, "namespace": in},
	}}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var answer struct {
			Status struct{ Allowed bool }
		}
		if err := c.Do(t.Context(), http.MethodPost, "/apis/authorization.k8s.io/v1/subjectaccessreviews", review, &answer); err != nil {
			t.Fatal(err)
		}
		if answer.Status.Allowed {
			return
		}
	}
	t.Fatalf("the API server does not let %s/%s %s %s", namespace, name, verb, resource)
}

// BindClusterRole gives a service account a role of the cluster.
func (c *Cluster) BindClusterRole(t testing.TB, role, namespace, name string) {
	t.Helper()
	binding := Named(namespace + "-" + name + "-" + strings.ReplaceAll(role, ":", "-"))
	binding["roleRef"] = map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
	binding["subjects"] = []any{map[string]any{"kind": "ServiceAccount", "name": name, "namespace": namespace}}
	c.Create(t, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
}
