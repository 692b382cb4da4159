// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package keyservice_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/kubestore"
	"github.com/constellation-os/constellation/keys/managed"
	"github.com/constellation-os/constellation/keys/managedtest"
	"github.com/constellation-os/constellation/keys/mode"
	"github.com/constellation-os/constellation/kubernetes/controlplanetest"
	"github.com/constellation-os/constellation/services/keyservice"
	"github.com/constellation-os/constellation/services/keyservice/client"
)

const (
	diskID     = "6f1a3c0e-8d2b-4f57-9a64-1b0c7de5f283"
	serverName = "keyservice.kube-system.svc"
	apiserver  = "https://kubernetes.default.svc"
)

// deployment is what a cluster has: the service's account and its rights, and a
// service account that may ask.
type deployment struct {
	*controlplanetest.Cluster
	config keyservice.Config
}

func deploy(t *testing.T) *deployment {
	t.Helper()
	c := controlplanetest.Start(t)
	for _, name := range []string{"keyservice", "joinservice", "stranger"} {
		c.ServiceAccount(t, "kube-system", name)
	}
	c.BindClusterRole(t, "system:auth-delegator", "kube-system", "keyservice")
	c.WaitUntilAllowed(t, "kube-system", "keyservice", "create", "authentication.k8s.io", "tokenreviews", "")
	certFile, keyFile := c.PKI().Issue(t, "keyservice", serverName)
	return &deployment{c, keyservice.Config{
		Listen: "127.0.0.1:0", HTTP: "127.0.0.1:0", Certificate: certFile, PrivateKey: keyFile, Audience: keyservice.DefaultAudience,
		Kubeconfig: c.Kubeconfig(t, c.Token(t, "kube-system", "keyservice", apiserver)),
		Grants:     []keyservice.Grant{{ServiceAccount: "kube-system/joinservice", Purposes: []string{"state-disk"}}},
		Limits:     keyservice.DefaultLimits(),
	}}
}

// run runs a service until the test ends.
func (d *deployment) run(t *testing.T, config keyservice.Config, b managed.Backends) *keyservice.Service {
	t.Helper()
	s, err := keyservice.Listen(t.Context(), &config, b, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// client asks with a token.
func (d *deployment) client(t *testing.T, s *keyservice.Service, token string) *client.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Config{Target: s.Address(), ServerName: serverName, CAFile: d.CAFile(), TokenFile: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func ask(t *testing.T, c *client.Client) (*keys.Key[keys.StateDisk], error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return keys.Get[keys.StateDisk](ctx, c, diskID, 32, 0)
}

func wantReason(t *testing.T, err error, want keyservice.Reason) {
	t.Helper()
	if got := keys.ClassOf(err); got != keys.Class(want) {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
}

// waitUntilRefused waits for the API server, which learns of a service account's end
// a moment later, and may remember for ten seconds what it said before.
func (d *deployment) waitUntilRefused(t *testing.T, token string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		review := map[string]any{
			"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
			"spec": map[string]any{"token": token, "audiences": []string{keyservice.DefaultAudience}},
		}
		var out struct {
			Status struct{ Authenticated bool }
		}
		if err := d.Do(t.Context(), http.MethodPost, "/apis/authentication.k8s.io/v1/tokenreviews", review, &out); err != nil {
			t.Fatal(err)
		}
		if !out.Status.Authenticated {
			return
		}
		t.Log("the API server accepts the token still")
	}
	t.Fatal("the API server does not learn that the service account is gone")
}

// TestTokenReview: who asks is what a real API server says. (V18)
func TestTokenReview(t *testing.T) {
	d := deploy(t)
	master := filepath.Join(t.TempDir(), "master.json")
	ring := keys.Generate()
	if err := ring.Create(master); err != nil {
		t.Fatal(err)
	}
	config := d.config
	config.MasterSecret = master
	s := d.run(t, config, managed.Backends{})
	good := d.Token(t, "kube-system", "joinservice", keyservice.DefaultAudience)
	want, err := keys.Get[keys.StateDisk](t.Context(), ring, diskID, 32, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("the right identity", func(t *testing.T) {
		got, err := ask(t, d.client(t, s, good))
		if err != nil || !got.Equal(want.Secret) || got.Version != 1 {
			t.Errorf("got %+v, %v", got, err)
		}
	})
	t.Run("the right identity, another purpose", func(t *testing.T) {
		_, err := keys.Get[keys.SSHCA](t.Context(), d.client(t, s, good), "cluster", 32, 0)
		wantReason(t, err, keyservice.ReasonNotGranted)
	})
	t.Run("another service account", func(t *testing.T) {
		_, err := ask(t, d.client(t, s, d.Token(t, "kube-system", "stranger", keyservice.DefaultAudience)))
		wantReason(t, err, keyservice.ReasonNotGranted)
	})
	t.Run("the same name in another namespace", func(t *testing.T) {
		d.ServiceAccount(t, "default", "joinservice")
		_, err := ask(t, d.client(t, s, d.Token(t, "default", "joinservice", keyservice.DefaultAudience)))
		wantReason(t, err, keyservice.ReasonNotGranted)
	})
	t.Run("a token for the API server", func(t *testing.T) {
		_, err := ask(t, d.client(t, s, d.Token(t, "kube-system", "joinservice", apiserver)))
		wantReason(t, err, keyservice.ReasonAudience)
	})
	t.Run("a changed token", func(t *testing.T) {
		signature := strings.LastIndex(good, ".") + 10
		changed := good[:signature] + map[bool]string{true: "B", false: "A"}[good[signature] == 'A'] + good[signature+1:]
		_, err := ask(t, d.client(t, s, changed))
		wantReason(t, err, keyservice.ReasonToken)
	})
	t.Run("a service account that is gone", func(t *testing.T) {
		d.ServiceAccount(t, "kube-system", "brief")
		token := d.Token(t, "kube-system", "brief", keyservice.DefaultAudience)
		if err := d.Do(t.Context(), http.MethodDelete, "/api/v1/namespaces/kube-system/serviceaccounts/brief", nil, nil); err != nil {
			t.Fatal(err)
		}
		d.waitUntilRefused(t, token)
		_, err := ask(t, d.client(t, s, token))
		wantReason(t, err, keyservice.ReasonToken)
	})
	t.Run("a server that is not the cluster's", func(t *testing.T) {
		other := d.config
		other.MasterSecret = master
		other.Certificate, other.PrivateKey = controlplanetest.NewPKI(t, t.TempDir()).Issue(t, "keyservice", serverName)
		_, err := ask(t, d.client(t, d.run(t, other, managed.Backends{}), good))
		wantReason(t, err, keyservice.Reason(keys.ClassUnreachable))
		if err != nil && !strings.Contains(err.Error(), "certificate signed by unknown authority") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a service without the right to review", func(t *testing.T) {
		powerless := d.config
		powerless.MasterSecret = master
		powerless.Kubeconfig = d.Kubeconfig(t, d.Token(t, "kube-system", "stranger", apiserver))
		_, err := ask(t, d.client(t, d.run(t, powerless, managed.Backends{}), good))
		wantReason(t, err, keyservice.ReasonReview)
	})
	t.Run("API server down", func(t *testing.T) {
		fresh := d.Token(t, "kube-system", "joinservice", keyservice.DefaultAudience)
		other := d.run(t, config, managed.Backends{})
		known := d.client(t, other, good)
		if _, err := ask(t, known); err != nil {
			t.Fatal(err)
		}
		d.StopAPIServer()
		_, err := ask(t, d.client(t, other, fresh+""))
		// Within a second the API server may hand out the same token twice.
		if fresh != good {
			wantReason(t, err, keyservice.ReasonReview)
		}
		if _, err := ask(t, known); err != nil {
			t.Errorf("a token that was reviewed: %v", err)
		}
		d.StartAPIServer(t)
		if _, err := ask(t, d.client(t, other, fresh)); err != nil {
			t.Errorf("once it is back: %v", err)
		}
	})
}

// TestTwoServices: user-managed mode with wrapped keys in the cluster's own API.
// Two services that are asked for a new key at once give the same.
func TestTwoServices(t *testing.T) {
	d := deploy(t)
	d.Namespace(t, "constellation-keys")
	rbac := "/apis/rbac.authorization.k8s.io/v1/namespaces/constellation-keys"
	role := controlplanetest.Named("keyservice")
	role["rules"] = []map[string]any{{"apiGroups": []string{""}, "resources": []string{"secrets"}, "verbs": []string{"get", "create"}}}
	d.Create(t, rbac+"/roles", role)
	binding := controlplanetest.Named("keyservice")
	binding["roleRef"] = map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "keyservice"}
	binding["subjects"] = []map[string]any{{"kind": "ServiceAccount", "name": "keyservice", "namespace": "kube-system"}}
	d.Create(t, rbac+"/rolebindings", binding)
	d.WaitUntilAllowed(t, "kube-system", "keyservice", "create", "", "secrets", "constellation-keys")

	kms := managedtest.NewKMS()
	config := d.config
	config.Config = mode.Config{UserManaged: &mode.UserManaged{
		Salt: strings.Repeat("5a", 32), KEKs: []mode.KEK{{Version: 1, URI: "memory:"}},
		Store: "kubernetes:constellation-keys?kubeconfig=" + config.Kubeconfig,
	}}
	b := managed.Backends{
		KMS:    map[string]func(context.Context, string) (managed.KMS, error){"memory": func(context.Context, string) (managed.KMS, error) { return kms, nil }},
		Stores: map[string]func(context.Context, string) (managed.Store, error){kubestore.Scheme: kubestore.Open},
	}
	token := d.Token(t, "kube-system", "joinservice", keyservice.DefaultAudience)
	clients := []*client.Client{d.client(t, d.run(t, config, b), token), d.client(t, d.run(t, config, b), token)}
	for i := range 10 {
		got := make([]*keys.Key[keys.StateDisk], len(clients))
		var wg sync.WaitGroup
		for j, c := range clients {
			wg.Go(func() {
				var err error
				if got[j], err = keys.Get[keys.StateDisk](t.Context(), c, fmt.Sprint("disk-", i), 32, 0); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		if !got[0].Equal(got[1].Secret) {
			t.Errorf("disk %d has two keys", i)
		}
	}
	if n := kms.Calls("wrap"); n <= 10 {
		t.Errorf("%d keys were made for 10 disks: the two were never asked at once", n)
	}

	// What the API stores is wrapped.
	var list struct {
		Items []struct {
			Data map[string][]byte `json:"data"`
		} `json:"items"`
	}
	if err := d.Do(t.Context(), http.MethodGet, "/api/v1/namespaces/constellation-keys/secrets", nil, &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 10 {
		t.Errorf("%d records", len(list.Items))
	}
	key, err := keys.Get[keys.StateDisk](t.Context(), clients[0], "disk-0", 32, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range list.Items {
		if bytes.Contains(item.Data["record"], key.Copy()) {
			t.Error("a key is stored as it is")
		}
		var record managed.Record
		if err := json.NewDecoder(io.LimitReader(bytes.NewReader(item.Data["record"]), 1<<16)).Decode(&record); err != nil || record.KEK != 1 {
			t.Errorf("record %+v, %v", record, err)
		}
	}
}
