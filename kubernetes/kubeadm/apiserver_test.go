// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package kubeadm

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/managed"
	"github.com/constellation-os/constellation/keys/mode"
	"github.com/constellation-os/constellation/kubernetes/controlplanetest"
	"github.com/constellation-os/constellation/services/keyservice/secretsprovider"
)

// marker is in everything that must not be readable.
const marker = "this must not be readable"

// writeBelow writes the rendered files below a folder that stands for a node's root,
// and names the folder wherever a file names a path.
func writeBelow(t *testing.T, root string, files Files) {
	t.Helper()
	moved := Files{}
	for path, content := range files {
		for _, absolute := range []string{"/etc/", "/var/", "/run/"} {
			for _, before := range []string{" ", "unix://"} {
				content = bytes.ReplaceAll(content, []byte(before+absolute), []byte(before+root+absolute))
			}
		}
		moved[path] = content
	}
	if err := moved.Write(root); err != nil {
		t.Fatal(err)
	}
}

// flags are those that kubeadm is told to give to the API server.
func flags(t *testing.T, files Files, root string, pki *controlplanetest.PKI) []string {
	t.Helper()
	args, _ := at(documents(t, files, DefaultDirectory)["ClusterConfiguration"], "apiServer", "extraArgs").([]any)
	var all []string
	for _, arg := range args {
		name, value := at(arg, "name").(string), at(arg, "value").(string)
		switch {
		case strings.HasPrefix(value, "/etc/kubernetes/pki/"):
			value = pki.CAFile
		case strings.HasPrefix(value, "/"):
			value = root + value
		}
		all = append(all, "--"+name+"="+value)
	}
	return all
}

// runProvider runs the real provider until the test ends.
func runProvider(t *testing.T, root string) {
	t.Helper()
	master, socket := filepath.Join(root, "master.json"), root+SecretsProviderSocket
	if err := keys.Generate().Create(master); err != nil {
		t.Fatal(err)
	}
	config := &secretsprovider.Config{Socket: socket, Config: mode.Config{MasterSecret: master}}
	cipher, closeKeys, err := config.Open(t.Context(), managed.Backends{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := secretsprovider.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- secretsprovider.New(cipher, slog.New(slog.DiscardHandler)).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := closeKeys(); err != nil {
			t.Error(err)
		}
	})
}

// start runs an API server as it is configured on a node.
func start(t *testing.T) (c *controlplanetest.Cluster, root string) {
	t.Helper()
	// A socket's path may have 107 bytes.
	root, err := os.MkdirTemp("", "node")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	files := render(t, nil)
	writeBelow(t, root, files)
	runProvider(t, root)
	return controlplanetest.Start(t, flags(t, files, root, controlplanetest.NewPKI(t, t.TempDir()))...), root
}

func secret(name string) map[string]any {
	s := controlplanetest.Named(name)
	s["stringData"] = map[string]any{"password": marker}
	return s
}

func TestSecretsAreEncrypted(t *testing.T) {
	c, _ := start(t)
	c.Create(t, "/api/v1/namespaces/default/secrets", secret("s"))
	plain := controlplanetest.Named("c")
	plain["data"] = map[string]any{"password": marker}
	c.Create(t, "/api/v1/namespaces/default/configmaps", plain)
	if raw := c.Stored(t, "/registry/configmaps/default/c"); !bytes.Contains(raw, []byte(marker)) {
		t.Fatalf("a config map, which is not encrypted, in etcd: %.60q", raw)
	}
	raw := c.Stored(t, "/registry/secrets/default/s")
	if !bytes.HasPrefix(raw, []byte("k8s:enc:kms:v2:constellation:")) || bytes.Contains(raw, []byte(marker)) {
		t.Errorf("a Secret in etcd: %.60q", raw)
	}
	var read struct{ Data map[string][]byte }
	if err := c.Do(t.Context(), http.MethodGet, "/api/v1/namespaces/default/secrets/s", nil, &read); err != nil || string(read.Data["password"]) != marker {
		t.Errorf("a Secret through the API: %q, %v", read.Data["password"], err)
	}
	// Somebody who can write to etcd cannot have the API server believe him.
	c.Store(t, "/registry/secrets/default/s", c.Stored(t, "/registry/configmaps/default/c"))
	err := c.Do(t.Context(), http.MethodGet, "/api/v1/namespaces/default/secrets/s", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "no matching prefix found") {
		t.Errorf("a Secret that is not encrypted: %v", err)
	}
}

// ask makes a request without credentials.
func ask(t *testing.T, c *controlplanetest.Cluster, path string, maxVersion uint16) (int, error) {
	t.Helper()
	pool := x509.NewCertPool()
	authority, err := os.ReadFile(c.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	pool.AppendCertsFromPEM(authority)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MaxVersion: maxVersion}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get(c.Admin.Host + path)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

func TestAnonymous(t *testing.T) {
	c, _ := start(t)
	for path, want := range map[string]int{
		"/livez": 200, "/readyz": 200, "/healthz": 200,
		"/": 401, "/version": 401, "/api": 401, "/apis": 401, "/metrics": 401, "/livez/ping": 401, "/livez/../version": 401,
		"/openapi/v3": 401, "/.well-known/openid-configuration": 401, "/api/v1/namespaces/kube-public/configmaps/cluster-info": 401,
	} {
		if got, err := ask(t, c, path, 0); got != want || err != nil {
			t.Errorf("%s: status %d, %v, want %d", path, got, err, want)
		}
	}
	if _, err := ask(t, c, "/livez", tls.VersionTLS12); err == nil || !strings.Contains(err.Error(), "protocol version not supported") {
		t.Errorf("with TLS 1.2: %v", err)
	}
	if err := c.Do(t.Context(), http.MethodGet, "/debug/pprof/", nil, nil); err == nil || !strings.Contains(err.Error(), "404 Not Found") {
		t.Errorf("profiling: %v", err)
	}
}

// TestTokensEnd: a pod's token is good for the hour that it says, not for a year.
func TestTokensEnd(t *testing.T) {
	c, _ := start(t)
	c.ServiceAccount(t, "default", "a")
	pod := controlplanetest.Named("p")
	pod["spec"] = map[string]any{"serviceAccountName": "a", "nodeName": "n", "containers": []any{map[string]any{"name": "c", "image": "c"}}}
	var created struct{ Metadata struct{ UID string } }
	if err := c.Do(t.Context(), http.MethodPost, "/api/v1/namespaces/default/pods", pod, &created); err != nil {
		t.Fatal(err)
	}
	// What kubelet asks for is an hour and seven seconds; that is how the API server knows it.
	request := map[string]any{"spec": map[string]any{"expirationSeconds": 3607, "boundObjectRef": map[string]any{
		"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": created.Metadata.UID,
	}}}
	var answer struct{ Status struct{ Token string } }
	if err := c.Do(t.Context(), http.MethodPost, "/api/v1/namespaces/default/serviceaccounts/a/token", request, &answer); err != nil {
		t.Fatal(err)
	}
	// The answer says an hour whatever the token says.
	var claims struct{ Exp int64 }
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(answer.Status.Token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	if left := time.Until(time.Unix(claims.Exp, 0)); left < 50*time.Minute || left > 61*time.Minute {
		t.Errorf("a token for an hour is good for %v", left)
	}
}

type auditEvent struct {
	Level, Stage, Verb, RequestURI string
	User                           struct{ Username string }
	ObjectRef                      struct{ Resource, Subresource, Name string }
	RequestObject, ResponseObject  json.RawMessage
	ResponseStatus                 struct{ Code int }
}

func auditLog(t *testing.T, root string) (events []auditEvent, raw []byte) {
	t.Helper()
	raw, err := os.ReadFile(root + AuditLog)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(raw) {
		var e auditEvent
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	return events, raw
}

// TestAudit does things that hold secrets, and things that change rights. The log
// has all of them, and the content of the latter alone.
func TestAudit(t *testing.T) {
	c, root := start(t)
	const secrets = "/api/v1/namespaces/default/secrets"
	c.Create(t, secrets, secret("s"))
	changed := secret("s")
	changed["stringData"] = map[string]any{"password": marker + " either"}
	config := controlplanetest.Named("c")
	config["data"] = map[string]any{"password": marker}
	c.ServiceAccount(t, "default", "a")
	token := c.Token(t, "default", "a", "https://kubernetes.default.svc")
	review := map[string]any{"spec": map[string]any{"token": token}}
	for _, do := range []struct {
		method, path string
		body         any
	}{
		{http.MethodPut, secrets + "/s", changed},
		{http.MethodGet, secrets + "/s", nil},
		{http.MethodPost, "/api/v1/namespaces/default/configmaps", config},
		{http.MethodPost, "/apis/authentication.k8s.io/v1/tokenreviews", review},
		{http.MethodDelete, secrets + "/s", nil},
		{http.MethodGet, "/livez", nil},
	} {
		if err := c.Do(t.Context(), do.method, do.path, do.body, nil); err != nil {
			t.Fatal(err)
		}
	}
	c.BindClusterRole(t, "view", "default", "a")
	// What the cluster's own services read is not in the log, unless it is this.
	c.ServiceAccount(t, "kube-system", "own")
	own := *c
	own.Admin = c.As(c.Token(t, "kube-system", "own", "https://kubernetes.default.svc"))
	for _, path := range []string{secrets + "/x", "/api/v1/namespaces/default/pods"} {
		if err := own.Do(t.Context(), http.MethodGet, path, nil, nil); err == nil || !strings.Contains(err.Error(), "403 Forbidden") {
			t.Fatal(err)
		}
	}

	events, raw := auditLog(t, root)
	want := map[string]string{
		"create secrets/ s": "Metadata", "update secrets/ s": "Metadata", "get secrets/ s": "Metadata", "delete secrets/ s": "Metadata",
		"create configmaps/ c": "Metadata", "create serviceaccounts/token a": "Metadata", "create tokenreviews/ ": "Metadata",
		"create clusterrolebindings/ default-a-view": "Request", "get secrets/ x": "Metadata",
	}
	got := map[string]string{}
	for _, e := range events {
		what := fmt.Sprintf("%s %s/%s %s", e.Verb, e.ObjectRef.Resource, e.ObjectRef.Subresource, e.ObjectRef.Name)
		if _, ok := want[what]; ok && (e.User.Username == "admin" || e.User.Username == "system:serviceaccount:kube-system:own") {
			got[what] = e.Level
		}
		if e.ObjectRef.Resource == "pods" {
			t.Errorf("%s in the log", what)
		}
		if len(e.ResponseObject) > 0 || len(e.RequestObject) > 0 && e.Level != "Request" {
			t.Errorf("%s: content in the log", what)
		}
		if strings.HasPrefix(e.RequestURI, "/livez") || strings.HasPrefix(e.RequestURI, "/readyz") {
			t.Errorf("%s in the log", e.RequestURI)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !bytes.Contains(raw, []byte(`"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"view"}`)) {
		t.Error("the log does not say which role was given")
	}
	for _, s := range []string{marker, base64.StdEncoding.EncodeToString([]byte(marker))[:16], token} {
		if bytes.Contains(raw, []byte(s)) {
			t.Errorf("%.20q… is in the log", s)
		}
	}
	if info, err := os.Stat(root + AuditLog); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the log's mode: %v, %v", info.Mode(), err)
	}
}
