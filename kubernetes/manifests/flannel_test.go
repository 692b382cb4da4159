// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package manifests

import (
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/constellation-os/constellation/kubernetes/controlplanetest"
)

const (
	otherNode = "flannel may change the node that it runs on, and no other"
	otherness = "flannel may change its own annotations of a node, and nothing else about it"
)

// flannelOn is a client with the token that kubelet gives to flannel's pod on a node.
func flannelOn(t *testing.T, c *controlplanetest.Cluster, node string) dynamic.Interface {
	t.Helper()
	const pods = "/api/v1/namespaces/kube-system/pods"
	pod := controlplanetest.Named("flannel-" + node)
	pod["spec"] = map[string]any{
		"nodeName": node, "serviceAccountName": "flannel", "hostNetwork": true,
		"containers": []any{map[string]any{"name": "flannel", "image": "flannel"}},
	}
	var created struct{ Metadata struct{ UID string } }
	if err := c.Do(t.Context(), http.MethodPost, pods, pod, &created); err != nil {
		t.Fatal(err)
	}
	request := map[string]any{"spec": map[string]any{
		"audiences":      []string{"https://kubernetes.default.svc"},
		"boundObjectRef": map[string]any{"apiVersion": "v1", "kind": "Pod", "name": "flannel-" + node, "uid": created.Metadata.UID},
	}}
	var answer struct{ Status struct{ Token string } }
	if err := c.Do(t.Context(), http.MethodPost, "/api/v1/namespaces/kube-system/serviceaccounts/flannel/token", request, &answer); err != nil {
		t.Fatal(err)
	}
	return asToken(t, c, answer.Status.Token)
}

func asToken(t *testing.T, c *controlplanetest.Cluster, token string) dynamic.Interface {
	t.Helper()
	d, err := dynamic.NewForConfig(c.As(token))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestFlannelChangesItsOwnNode: who may change a node's public key may read its
// traffic, so flannel may do so on its own node only.
func TestFlannelChangesItsOwnNode(t *testing.T) {
	c, _ := start(t)
	for _, name := range []string{"a", "b"} {
		node := controlplanetest.Named(name)
		node["metadata"].(map[string]any)["labels"] = map[string]any{"zone": "1"}
		node["metadata"].(map[string]any)["annotations"] = map[string]any{"mine": "1"}
		c.Create(t, "/api/v1/nodes", node)
	}
	flannel := flannelOn(t, c, "a")
	patch := func(d dynamic.Interface, node, patch string) string {
		_, err := d.Resource(schema.GroupVersionResource{Version: "v1", Resource: "nodes"}).
			Patch(t.Context(), node, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
		if err != nil {
			return err.Error()
		}
		return ""
	}
	const key = `{"metadata": {"annotations": {"flannel.alpha.coreos.com/backend-data": "{\"PublicKey\":\"x\"}"}}}`
	// The API server learns of the policy a moment after it was created.
	for deadline := time.Now().Add(time.Minute); patch(flannel, "b", key) == ""; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the policy does nothing")
		}
	}
	unbound := asToken(t, c, c.Token(t, "kube-system", "flannel", "https://kubernetes.default.svc"))
	for _, test := range []struct {
		name        string
		client      dynamic.Interface
		node, patch string
		says        string
	}{
		{"its key", flannel, "a", key, ""},
		{"the network's state", flannel, "a", `{"status": {"conditions": [{"type": "NetworkUnavailable", "status": "False"}]}}`, ""},
		{"another node's key", flannel, "b", key, otherNode},
		{"a token of no node", unbound, "a", key, otherNode},
		{"a label", flannel, "a", `{"metadata": {"labels": {"zone": "2"}}}`, otherness},
		{"no label", flannel, "a", `{"metadata": {"labels": {"zone": null}}}`, otherness},
		{"another's annotation", flannel, "a", `{"metadata": {"annotations": {"mine": "2"}}}`, otherness},
		{"a new annotation", flannel, "a", `{"metadata": {"annotations": {"yours": "1"}}}`, otherness},
		{"no annotation", flannel, "a", `{"metadata": {"annotations": {"mine": null}}}`, otherness},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := patch(test.client, test.node, test.patch)
			if test.says == "" && got != "" || !strings.Contains(got, test.says) {
				t.Errorf("got %q, want %q", got, test.says)
			}
		})
	}
	admin, err := dynamic.NewForConfig(c.Admin)
	if err != nil {
		t.Fatal(err)
	}
	if got := patch(admin, "b", `{"metadata": {"labels": {"zone": "2"}}}`); got != "" {
		t.Errorf("the administrator: %s", got)
	}
}
