// SPDX-License-Identifier: Apache-2.0

package controlplanetest

import (
	"bytes"
	"net/http"
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// Manifest creates the objects of a file, in which the API server may not find a field
// that it does not know.
func (c *Cluster) Manifest(t testing.TB, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for document := range bytes.SplitSeq(data, []byte("\n---\n")) {
		var o struct {
			APIVersion, Kind string
			Metadata         struct{ Name, Namespace string }
		}
		var content map[string]any
		if err := yaml.Unmarshal(document, &o); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if err := yaml.UnmarshalStrict(document, &content); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if err := c.Do(t.Context(), http.MethodPost, collection(o.APIVersion, o.Kind, o.Metadata.Namespace)+"?fieldValidation=Strict", content, nil); err != nil {
			t.Errorf("%s, %s %s: %v", path, o.Kind, o.Metadata.Name, err)
		}
	}
}

// collection is the API's path of a kind.
func collection(version, kind, namespace string) string {
	base := "/apis/" + version
	if version == "v1" {
		base = "/api/v1"
	}
	if namespace != "" {
		base += "/namespaces/" + namespace
	}
	resource := strings.ToLower(kind) + "s"
	if rest, ok := strings.CutSuffix(resource, "ys"); ok {
		resource = rest + "ies"
	}
	return base + "/" + resource
}
