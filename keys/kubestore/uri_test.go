// SPDX-License-Identifier: Apache-2.0

package kubestore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/keys"
)

const kubeconfig = `{"apiVersion":"v1","kind":"Config","current-context":"x","contexts":[{"name":"x","context":{"cluster":"x","user":"x"}}],
"users":[{"name":"x","user":{}}],"clusters":[{"name":"x","cluster":{"server":"https://127.0.0.1:1"}}]}`

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), "kubernetes:constellation-keys?kubeconfig="+path)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.(*Store).namespace; got != "constellation-keys" {
		t.Errorf("namespace %q", got)
	}
	_, err = s.Get(t.Context(), "x")
	if keys.ClassOf(err) != keys.ClassUnreachable || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("nobody listens: %v", err)
	}
	for uri, says := range map[string]string{
		"":                              "starts with kubernetes:",
		"s3:x":                          "starts with kubernetes:",
		"kubernetes:":                   "names no namespace",
		"kubernetes:A":                  "names no namespace",
		"kubernetes://x":                "names no namespace",
		"kubernetes:x?kubeconfig=a":     "must be the absolute path",
		"kubernetes:x?kubeconfig=":      "must be the absolute path",
		"kubernetes:x?token=y":          `no "token"`,
		"kubernetes:x?kubeconfig=/none": "no such file",
		"kubernetes:x":                  "not in a pod",
	} {
		if _, err := Open(t.Context(), uri); keys.ClassOf(err) != keys.ClassInvalid || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want it to say %q", uri, err, says)
		}
	}
}
