// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package kubestore

import (
	"bytes"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/managed"
	"github.com/constellation-os/constellation/keys/managedtest"
	"github.com/constellation-os/constellation/kubernetes/controlplanetest"
)

const (
	namespace = "constellation-keys"
	account   = "keyservice"
)

// grant lets the account do what the package comment says, and nothing else.
func grant(t *testing.T, c *controlplanetest.Cluster) {
	t.Helper()
	c.Namespace(t, namespace)
	c.ServiceAccount(t, namespace, account)
	rbac := "/apis/rbac.authorization.k8s.io/v1/namespaces/" + namespace
	role := controlplanetest.Named("keyservice")
	role["rules"] = []map[string]any{{"apiGroups": []string{""}, "resources": []string{"secrets"}, "verbs": []string{"get", "create"}}}
	c.Create(t, rbac+"/roles", role)
	binding := controlplanetest.Named("keyservice")
	binding["roleRef"] = map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "keyservice"}
	binding["subjects"] = []map[string]any{{"kind": "ServiceAccount", "name": account, "namespace": namespace}}
	c.Create(t, rbac+"/rolebindings", binding)
	c.WaitUntilAllowed(t, namespace, account, "create", "", "secrets", namespace)
}

func store(t *testing.T, c *controlplanetest.Cluster, namespace, token string) *Store {
	t.Helper()
	s, err := New(c.As(token), namespace)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantClass(t *testing.T, err error, want keys.Class, says string) {
	t.Helper()
	if got := keys.ClassOf(err); got != want {
		t.Errorf("got class %q (%v), want %q", got, err, want)
	}
	if err != nil && !strings.Contains(err.Error(), says) {
		t.Errorf("%q does not say %q", err, says)
	}
}

func TestRealAPIServer(t *testing.T) {
	c := controlplanetest.Start(t)
	grant(t, c)
	token := c.Token(t, namespace, account, "https://kubernetes.default.svc")
	s := store(t, c, namespace, token)
	t.Run("records", func(t *testing.T) {
		_, err := s.Get(t.Context(), "a")
		wantClass(t, err, keys.ClassMissing, "not found")
		if err := s.Create(t.Context(), "a", []byte("first")); err != nil {
			t.Fatal(err)
		}
		wantClass(t, s.Create(t.Context(), "a", []byte("second")), keys.ClassExists, "already exists")
		if got, err := s.Get(t.Context(), "a"); err != nil || string(got) != "first" {
			t.Errorf("got %q, %v", got, err)
		}
		err = c.Do(t.Context(), http.MethodPut, "/api/v1/namespaces/"+namespace+"/secrets/"+namePrefix+"a", map[string]any{
			"metadata": map[string]any{"name": namePrefix + "a"}, "type": SecretType, "immutable": true, "data": map[string]any{field: []byte("third")},
		}, nil)
		if err == nil || !strings.Contains(err.Error(), "immutable") {
			t.Errorf("changing a record: %v", err)
		}
		foreign := controlplanetest.Named(namePrefix + "b")
		foreign["data"] = map[string]any{field: []byte("x")}
		c.Create(t, "/api/v1/namespaces/"+namespace+"/secrets", foreign)
		_, err = s.Get(t.Context(), "b")
		wantClass(t, err, keys.ClassCorrupted, "not a wrapped key")
	})
	t.Run("two services at once", func(t *testing.T) { twoAtOnce(t, s, store(t, c, namespace, token)) })
	t.Run("not permitted", func(t *testing.T) {
		c.ServiceAccount(t, namespace, "stranger")
		stranger := store(t, c, namespace, c.Token(t, namespace, "stranger", "https://kubernetes.default.svc"))
		_, err := stranger.Get(t.Context(), "a")
		wantClass(t, err, keys.ClassNotPermitted, "cannot get resource")
		wantClass(t, stranger.Create(t.Context(), "c", nil), keys.ClassNotPermitted, "cannot create resource")
		_, err = store(t, c, namespace, "nonsense").Get(t.Context(), "a")
		wantClass(t, err, keys.ClassNotPermitted, "Unauthorized")
	})
	t.Run("no namespace", func(t *testing.T) {
		admin, err := New(c.Admin, "nowhere")
		if err != nil {
			t.Fatal(err)
		}
		wantClass(t, admin.Create(t.Context(), "a", nil), keys.ClassInvalid, "no namespace nowhere")
	})
	t.Run("API server down and back", func(t *testing.T) {
		c.StopAPIServer()
		_, err := s.Get(t.Context(), "a")
		wantClass(t, err, keys.ClassUnreachable, "connection refused")
		c.StartAPIServer(t)
		if got, err := s.Get(t.Context(), "a"); err != nil || string(got) != "first" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// twoAtOnce has two key services ask for new keys at the same moment.
func twoAtOnce(t *testing.T, stores ...*Store) {
	kms, salt := managedtest.NewKMS(), bytes.Repeat([]byte("salt"), 8)
	var sources []*managed.Source
	for _, s := range stores {
		source, err := managed.NewSource(managed.Config{Salt: salt, Store: s, KEKs: map[keys.Version]managed.KMS{1: kms}})
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, source)
	}
	raced := 0
	for i := range 20 {
		id := string(rune('a' + i))
		got := make([]*keys.Key[keys.StateDisk], len(sources))
		before := kms.Calls("wrap")
		var wg sync.WaitGroup
		for j, s := range sources {
			wg.Go(func() {
				var err error
				if got[j], err = keys.Get[keys.StateDisk](t.Context(), s, id, 32, 0); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		if !got[0].Equal(got[1].Secret) {
			t.Errorf("%s: two keys", id)
		}
		if kms.Calls("wrap")-before == len(sources) {
			raced++
		}
	}
	if raced == 0 {
		t.Error("the two never made a key at the same moment: this test saw nothing")
	}
	t.Logf("%d of 20 times both made a key, and one was kept", raced)
}
