// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package manifests

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/constellation-os/constellation/kubernetes/apply"
	"github.com/constellation-os/constellation/kubernetes/controlplanetest"
	"github.com/constellation-os/constellation/services/keyservice"
)

// services is the network that controlplanetest's API server has.
const services = "10.96.0.0/24"

// start runs a control plane with all objects applied.
func start(t *testing.T) (*controlplanetest.Cluster, []*unstructured.Unstructured) {
	t.Helper()
	c := controlplanetest.Start(t, "--allow-privileged=true") // as kubeadm has it
	objects := render(t, func(p *Parameters) { p.ServiceNetwork = services })
	mustApply(t, c, objects)
	return c, objects
}

func mustApply(t *testing.T, c *controlplanetest.Cluster, objects []*unstructured.Unstructured) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := apply.Apply(ctx, c.Admin, objects, nil); err != nil {
		t.Fatal(err)
	}
}

// paths are where the API has each kind.
var paths = map[string]string{
	"Namespace": "/api/v1/namespaces", "ServiceAccount": "serviceaccounts", "ConfigMap": "configmaps", "Service": "services",
	"ClusterRole":        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
	"ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
	"Role":               "roles", "RoleBinding": "rolebindings", "DaemonSet": "daemonsets", "Deployment": "deployments", "NetworkPolicy": "networkpolicies",
	"ValidatingAdmissionPolicy":        "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
	"ValidatingAdmissionPolicyBinding": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
}

func path(t *testing.T, o *unstructured.Unstructured) string {
	t.Helper()
	resource, ok := paths[o.GetKind()]
	switch {
	case !ok:
		t.Fatalf("kind %s is not known to this test", o.GetKind())
	case resource[0] == '/':
		return resource + "/" + o.GetName()
	case o.GetAPIVersion() == "v1":
		return "/api/v1/namespaces/" + o.GetNamespace() + "/" + resource + "/" + o.GetName()
	}
	return "/apis/" + o.GetAPIVersion() + "/namespaces/" + o.GetNamespace() + "/" + resource + "/" + o.GetName()
}

// versions are those of all objects in the API server: it gives a new one to
// whatever changes.
func versions(t *testing.T, c *controlplanetest.Cluster, objects []*unstructured.Unstructured) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, o := range objects {
		var live struct {
			Metadata struct{ ResourceVersion string }
		}
		if err := c.Do(t.Context(), http.MethodGet, path(t, o), nil, &live); err != nil {
			t.Fatal(err)
		}
		all[name(o)] = live.Metadata.ResourceVersion
	}
	return all
}

// TestApplied: a real API server takes every object, checks each field, and nothing
// changes when they are applied again.
func TestApplied(t *testing.T) {
	c, objects := start(t)
	first := versions(t, c, objects)
	mustApply(t, c, objects)
	for name, version := range versions(t, c, objects) {
		if version != first[name] {
			t.Errorf("%s: version %s, then %s", name, first[name], version)
		}
	}
	// A parameter that changes does change something: the comparison can fail.
	mustApply(t, c, render(t, func(p *Parameters) { p.ServiceNetwork, p.SingleNode = services, true }))
	if version := versions(t, c, objects)["Deployment kube-system/coredns"]; version == first["Deployment kube-system/coredns"] {
		t.Error("another number of name servers changed nothing")
	}
}

// TestKeyServiceTakesItsConfiguration: the service's own code reads it.
func TestKeyServiceTakesItsConfiguration(t *testing.T) {
	text, _, _ := unstructured.NestedString(find(t, render(t, nil), "ConfigMap kube-system/keyservice").Object, "data", "keyservice.json")
	file := filepath.Join(t.TempDir(), "keyservice.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keyservice.LoadConfig(file); err != nil {
		t.Error(err)
	}
}
