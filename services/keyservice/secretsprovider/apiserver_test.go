// SPDX-License-Identifier: Apache-2.0

//go:build e2e && cgo

package secretsprovider

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/managed"
	"github.com/constellation-os/constellation/keys/mode"
	"github.com/constellation-os/constellation/keys/pkcs11"
	"github.com/constellation-os/constellation/keys/softhsmtest"
	"github.com/constellation-os/constellation/kubernetes/controlplanetest"
)

const (
	marker     = "this must not be readable in etcd"
	secretsURL = "/api/v1/namespaces/default/secrets"
)

// run runs a provider until the returned function is called.
func run(t *testing.T, c *Config) (stop func()) {
	t.Helper()
	cipher, closeKeys, err := c.Open(t.Context(), managed.Backends{
		KMS: map[string]func(context.Context, string) (managed.KMS, error){pkcs11.Scheme: pkcs11.Open},
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(c.Socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- New(cipher, slog.New(slog.DiscardHandler)).Serve(ctx, l) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := closeKeys(); err != nil {
			t.Error(err)
		}
	}
}

// start runs a control plane whose Secrets the provider encrypts. The provider
// runs already: it needs nothing of the API server.
func start(t *testing.T, socket string) *controlplanetest.Cluster {
	t.Helper()
	config := filepath.Join(t.TempDir(), "encryption.yaml")
	text := fmt.Sprintf(`{"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources": [{"resources": ["secrets"],
"providers": [{"kms": {"apiVersion": "v2", "name": "constellation", "endpoint": "unix://%s", "timeout": "10s"}}]}]}`, socket)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return controlplanetest.Start(t, "--encryption-provider-config", config)
}

func secret(name string) map[string]any {
	s := controlplanetest.Named(name)
	s["stringData"] = map[string]any{"password": marker}
	return s
}

func read(t *testing.T, c *controlplanetest.Cluster, name string) (string, error) {
	t.Helper()
	var answer struct {
		Data map[string][]byte `json:"data"`
	}
	err := c.Do(t.Context(), http.MethodGet, secretsURL+"/"+name, nil, &answer)
	return string(answer.Data["password"]), err
}

func wantReadable(t *testing.T, c *controlplanetest.Cluster, names ...string) {
	t.Helper()
	for _, name := range names {
		if got, err := read(t, c, name); err != nil || got != marker {
			t.Errorf("%s through the API: %q, %v", name, got, err)
		}
	}
}

// wantEncrypted looks at what etcd holds.
func wantEncrypted(t *testing.T, c *controlplanetest.Cluster, name, key string) {
	t.Helper()
	raw := c.Stored(t, "/registry/secrets/default/"+name)
	if !bytes.HasPrefix(raw, []byte("k8s:enc:kms:v2:constellation:")) {
		t.Errorf("%s in etcd is not encrypted by us: %.60q", name, raw)
	}
	if bytes.Contains(raw, []byte("password")) || bytes.Contains(raw, []byte(marker[:12])) {
		t.Errorf("%s can be read in etcd", name)
	}
	if !bytes.Contains(raw, []byte(key)) {
		t.Errorf("%s in etcd is not encrypted with %s", name, key)
	}
}

func TestSecretsAtRest(t *testing.T) {
	dir := t.TempDir()
	master := filepath.Join(dir, "master.json")
	ring := keys.Generate()
	if err := ring.Create(master); err != nil {
		t.Fatal(err)
	}
	config := &Config{Socket: filepath.Join(dir, "kms.sock"), Config: mode.Config{MasterSecret: master}}
	stop := run(t, config)
	c := start(t, config.Socket)

	// A namespace that is not encrypted shows that the search in etcd can find something.
	plain := controlplanetest.Named("plain")
	plain["data"] = map[string]any{"password": marker}
	c.Create(t, "/api/v1/namespaces/default/configmaps", plain)
	if raw := c.Stored(t, "/registry/configmaps/default/plain"); !bytes.Contains(raw, []byte(marker)) {
		t.Fatalf("a config map in etcd: %q", raw)
	}

	c.Create(t, secretsURL, secret("one"))
	wantEncrypted(t, c, "one", "constellation/v1/1/")
	wantReadable(t, c, "one")

	// Rotation, and a reboot: the provider is up before the API server.
	if _, err := ring.Rotate(); err != nil {
		t.Fatal(err)
	}
	if err := ring.Replace(master); err != nil {
		t.Fatal(err)
	}
	restart := func() {
		c.StopAPIServer()
		stop()
		stop = run(t, config)
		c.StartAPIServer(t)
	}
	restart()
	wantReadable(t, c, "one")
	c.Create(t, secretsURL, secret("two"))
	wantEncrypted(t, c, "two", "constellation/v1/2/")
	wantReadable(t, c, "one", "two")

	// Written again, the old one is encrypted with the new key; then the old key can go.
	if err := c.Do(t.Context(), http.MethodPut, secretsURL+"/one", secret("one"), nil); err != nil {
		t.Fatal(err)
	}
	wantEncrypted(t, c, "one", "constellation/v1/2/")
	if err := ring.Retire(1); err != nil {
		t.Fatal(err)
	}
	if err := ring.Replace(master); err != nil {
		t.Fatal(err)
	}
	restart()
	wantReadable(t, c, "one", "two")

	// Under another master secret nothing can be read, and the reason is named.
	other := keys.Generate()
	if err := other.Replace(master); err != nil {
		t.Fatal(err)
	}
	c.StopAPIServer()
	stop()
	stop = run(t, config)
	defer func() { stop() }()
	c.LaunchAPIServer(t)
	c.WaitForLog(t, "no version 2")
}

func TestSecretsAtRestWithHSM(t *testing.T) {
	hsm := softhsmtest.New(t)
	hsm.Token(t, "prod")
	hsm.Key(t, "prod", "kek-1", 1)
	hsm.Key(t, "prod", "kek-2", 2)
	config := &Config{Socket: filepath.Join(t.TempDir(), "kms.sock"), Config: mode.Config{UserManaged: &mode.UserManaged{
		Salt: strings.Repeat("5a", 32), KEKs: []mode.KEK{{Version: 1, URI: hsm.URI("prod", "kek-1")}},
	}}}
	stop := run(t, config)
	c := start(t, config.Socket)
	c.Create(t, secretsURL, secret("one"))
	wantEncrypted(t, c, "one", "user-managed/v1/1/")

	c.StopAPIServer()
	stop()
	config.UserManaged.KEKs = append(config.UserManaged.KEKs, mode.KEK{Version: 2, URI: hsm.URI("prod", "kek-2")})
	stop = run(t, config)
	c.StartAPIServer(t)
	c.Create(t, secretsURL, secret("two"))
	wantEncrypted(t, c, "two", "user-managed/v1/2/")
	wantReadable(t, c, "one", "two")
	c.StopAPIServer()
	stop()
}
