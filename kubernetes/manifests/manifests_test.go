// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package manifests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/constellation-os/constellation/kubernetes/controlplanetest"
	"github.com/constellation-os/constellation/services/keyservice"
)

// resources are the API's paths of the kinds that manifests use.
var resources = map[string]string{
	"Namespace": "/api/v1/namespaces", "ServiceAccount": "serviceaccounts", "ConfigMap": "configmaps", "Service": "services",
	"ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings", "Role": "roles", "RoleBinding": "rolebindings",
	"DaemonSet": "daemonsets", "NetworkPolicy": "networkpolicies",
}

type object struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Name      string `yaml:"name"`
		Namespace string `yaml:"namespace"`
	} `yaml:"metadata"`
	Data map[string]string `yaml:"data"`
}

// path is where the API server wants it created.
func (o *object) path() (string, error) {
	resource, ok := resources[o.Kind]
	if !ok {
		return "", fmt.Errorf("kind %s is not known to this test", o.Kind)
	}
	if strings.HasPrefix(resource, "/") {
		return resource, nil
	}
	base := "/apis/" + o.APIVersion
	if o.APIVersion == "v1" {
		base = "/api/v1"
	}
	if o.Metadata.Namespace != "" {
		base += "/namespaces/" + o.Metadata.Namespace
	}
	return base + "/" + resource, nil
}

// TestAccepted: a real API server takes each manifest as it is, with no field that
// it does not know, and the service takes its configuration.
func TestAccepted(t *testing.T) {
	c := controlplanetest.Start(t)
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	configurations := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for document := range bytes.SplitSeq(data, []byte("\n---\n")) {
			var o object
			var content map[string]any
			if err := yaml.Unmarshal(document, &o); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if err := yaml.Unmarshal(document, &content); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			path, err := o.path()
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if err := c.Do(t.Context(), http.MethodPost, path+"?fieldValidation=Strict", content, nil); err != nil {
				t.Errorf("%s, %s %s: %v", file, o.Kind, o.Metadata.Name, err)
			}
			if text, ok := o.Data["keyservice.json"]; ok {
				configurations++
				checkConfig(t, text)
			}
		}
	}
	if configurations != 1 {
		t.Errorf("%d configurations of KeyService", configurations)
	}
	if err := c.Do(t.Context(), http.MethodPost, "/api/v1/namespaces?fieldValidation=Strict", json.RawMessage(`{"metadata":{"name":"x","nam":"x"}}`), nil); err == nil {
		t.Error("the API server takes fields that it does not know: this test sees nothing")
	}
}

func checkConfig(t *testing.T, text string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keyservice.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keyservice.LoadConfig(path); err != nil {
		t.Error(err)
	}
}
