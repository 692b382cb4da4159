// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package verify_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/kubernetes/controlplanetest"
)

// TestAPIServer: a real API server takes the service's manifest as it is, lists nodes,
// and carries the command's questions to the pod of each, where nobody is in this test:
// it connects to no pod at an address of its own machine, and says so.
func TestAPIServer(t *testing.T) {
	c := controlplanetest.Start(t, "--allow-privileged=true") // as kubeadm starts it
	c.Manifest(t, "../../kubernetes/manifests/verificationservice.yaml")
	c.ServiceAccount(t, "kube-system", "admin")
	c.BindClusterRole(t, "cluster-admin", "kube-system", "admin")
	c.WaitUntilAllowed(t, "kube-system", "admin", "create", "", "pods", "kube-system")
	kubeconfig := c.Kubeconfig(t, c.Token(t, "kube-system", "admin", "https://kubernetes.default.svc"))
	for _, node := range []string{"node-1", "node-2"} {
		c.Create(t, "/api/v1/nodes", controlplanetest.Named(node))
	}
	pod := podOn("node-1")
	c.Create(t, "/api/v1/namespaces/kube-system/pods", pod)
	pod["status"] = map[string]any{"phase": "Running", "podIP": "127.0.0.1", "podIPs": []any{map[string]any{"ip": "127.0.0.1"}}}
	if err := c.Do(t.Context(), http.MethodPut, "/api/v1/namespaces/kube-system/pods/on-node-1/status", pod, nil); err != nil {
		t.Fatal(err)
	}
	policy := filepath.Join(t.TempDir(), "policy.json")
	if code := run([]string{"policy", "create", policy, "--measurements", filepath.Join(recorded, "measurements.json"), "--not-after", "2099-01-01",
		"--inventory", filepath.Join(recorded, "machines.txt")}, t.Output(), t.Output()); code != 0 {
		t.Fatal(code)
	}
	var out, errs bytes.Buffer
	code := run([]string{"verify", "--policy", policy, "--cluster-id", clusterID, "--kubeconfig", kubeconfig, "--output", "json"}, &out, &errs)
	var report struct {
		Nodes []struct{ Name, Endpoint, Verdict, Reason, Detail string }
	}
	if err := json.Unmarshal(out.Bytes(), &report); err != nil || code != 1 || len(report.Nodes) != 2 {
		t.Fatalf("exit code %d, %v\n%s%s", code, err, out.String(), errs.String())
	}
	one, two := report.Nodes[0], report.Nodes[1]
	if one.Name != "node-1" || !strings.HasSuffix(one.Endpoint, "/pods/http:on-node-1:9447/proxy") || one.Reason != "malformed" || !strings.Contains(one.Detail, "address not allowed") {
		t.Errorf("%+v", one)
	}
	if two.Name != "node-2" || two.Reason != "unreachable" || two.Verdict != "no-answer" || !strings.Contains(two.Detail, "no VerificationService runs on it") {
		t.Errorf("%+v", two)
	}
	testApply(t, c, policy, kubeconfig)
}

// testApply: a policy that the nodes, who do not answer, do not fulfil becomes the
// cluster's by force only.
func testApply(t *testing.T, c *controlplanetest.Cluster, policy, kubeconfig string) {
	inForce := func() string {
		var m struct{ Data map[string]string }
		if err := c.Do(t.Context(), http.MethodGet, "/api/v1/namespaces/kube-system/configmaps/constellation-policy", nil, &m); err != nil {
			return ""
		}
		return m.Data["policy.json"]
	}
	want, err := os.ReadFile(policy)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"policy", "apply", policy, "--cluster-id", clusterID, "--kubeconfig", kubeconfig}
	var out bytes.Buffer
	if code := run(args, &out, t.Output()); code != 1 || inForce() != "" {
		t.Errorf("exit code %d, and in force is %q", code, inForce())
	}
	for _, text := range []string{"node-1  would not be let in again  malformed", "node-2  would not be let in again  unreachable", "nothing was changed: by policy ", "0 of 2 nodes"} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("%q is not in\n%s", text, out.String())
		}
	}
	out.Reset()
	if code := run(append(args, "--force", "--output", "json"), &out, t.Output()); code != 0 || inForce() != string(want) || !strings.Contains(out.String(), `"applied": true`) {
		t.Errorf("by force: exit code %d, and in force is %q\n%s", code, inForce(), out.String())
	}
}

// podOn is what the DaemonSet's controller, which is not here, would make for a node.
func podOn(node string) map[string]any {
	pod := controlplanetest.Named("on-" + node)
	pod["metadata"].(map[string]any)["labels"] = map[string]any{"app.kubernetes.io/name": "verificationservice"}
	pod["metadata"].(map[string]any)["namespace"] = "kube-system"
	pod["spec"] = map[string]any{
		"nodeName": node, "serviceAccountName": "verificationservice", "automountServiceAccountToken": false,
		"containers": []any{map[string]any{"name": "verificationservice", "image": "verificationservice"}},
	}
	return pod
}
