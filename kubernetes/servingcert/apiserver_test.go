// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package servingcert

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/constellation-os/constellation/kubernetes/controlplanetest"
)

const requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests"

// ask makes a request as a node, and returns the name that the API server knows it by.
func ask(t *testing.T, c *controlplanetest.Cluster, name, node, signer string, csr *x509.CertificateRequest) {
	t.Helper()
	as := *c
	as.Admin = rest.CopyConfig(c.Admin)
	as.Admin.Impersonate = rest.ImpersonationConfig{UserName: "system:node:" + node, Groups: []string{"system:nodes", "system:authenticated", "system:masters"}}
	o := controlplanetest.Named(name)
	usage := "server auth"
	if signer != "kubernetes.io/kubelet-serving" {
		usage = "client auth"
	}
	o["spec"] = map[string]any{"request": sign(t, csr), "signerName": signer, "usages": []string{"digital signature", usage}}
	as.Create(t, requests, o)
}

type decision struct {
	Status struct {
		Conditions []struct{ Type, Message string }
	}
}

// decided waits for a decision.
func decided(t *testing.T, c *controlplanetest.Cluster, name string) (kind, message string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var d decision
		if err := c.Do(t.Context(), http.MethodGet, requests+"/"+name, nil, &d); err != nil {
			t.Fatal(err)
		}
		if len(d.Status.Conditions) > 0 {
			return d.Status.Conditions[0].Type, d.Status.Conditions[0].Message
		}
	}
	t.Fatalf("no decision on %s", name)
	return "", ""
}

// TestRun: requests that are there, that come later, that ask for too much, and that
// are others' to decide on; with no more rights than the comment of Run says.
func TestRun(t *testing.T) {
	c := controlplanetest.Start(t)
	c.Namespace(t, "x")
	c.ServiceAccount(t, "x", "approver")
	role := controlplanetest.Named("approver")
	role["rules"] = []any{
		map[string]any{"apiGroups": []string{"certificates.k8s.io"}, "resources": []string{"certificatesigningrequests"}, "verbs": []string{"get", "list", "watch"}},
		map[string]any{"apiGroups": []string{"certificates.k8s.io"}, "resources": []string{"certificatesigningrequests/approval"}, "verbs": []string{"update"}},
		map[string]any{"apiGroups": []string{"certificates.k8s.io"}, "resources": []string{"signers"}, "verbs": []string{"approve"}, "resourceNames": []string{"kubernetes.io/kubelet-serving"}},
	}
	c.Create(t, "/apis/rbac.authorization.k8s.io/v1/clusterroles", role)
	c.BindClusterRole(t, "approver", "x", "approver")
	ask(t, c, "early", "n", signer, template())

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	config := c.As(c.Token(t, "x", "approver", "https://kubernetes.default.svc"))
	go func() { done <- Run(ctx, config, One("n", address), slog.New(slog.DiscardHandler)) }()
	want := func(name, kind, message string) {
		t.Helper()
		if k, m := decided(t, c, name); k != kind || m != message {
			t.Errorf("%s: %s, %q, want %s, %q", name, k, m, kind, message)
		}
	}
	want("early", "Approved", "the node asks for itself")

	other := template()
	other.Subject.CommonName, other.DNSNames = "system:node:m", []string{"m"}
	ask(t, c, "other-node", "m", signer, other)
	client := template()
	client.DNSNames, client.IPAddresses = nil, nil
	ask(t, c, "client", "n", "kubernetes.io/kube-apiserver-client-kubelet", client)
	greedy := template()
	greedy.IPAddresses = append(greedy.IPAddresses, net.ParseIP("10.77.0.3"))
	ask(t, c, "greedy", "n", signer, greedy)
	want("greedy", "Denied", "asks for the address 10.77.0.3, which is not the node's")
	// The API server is restarted: Run goes on.
	c.StopAPIServer()
	c.StartAPIServer(t)
	ask(t, c, "late", "n", signer, template())
	want("late", "Approved", "the node asks for itself")
	for _, name := range []string{"other-node", "client"} {
		var d decision
		if err := c.Do(t.Context(), http.MethodGet, requests+"/"+name, nil, &d); err != nil || len(d.Status.Conditions) > 0 {
			t.Errorf("%s: %v, %v", name, d.Status.Conditions, err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
