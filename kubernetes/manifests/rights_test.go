// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package manifests

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/kubernetes/controlplanetest"
)

// rule is one of an answer of SelfSubjectRulesReview.
type rule struct {
	Verbs, APIGroups, Resources, ResourceNames []string
}

func (r rule) String() string {
	text := strings.Join(r.Verbs, ",") + " " + strings.Join(r.Resources, ",")
	if g := strings.Join(r.APIGroups, ","); g != "" {
		text += " of " + g
	}
	if len(r.ResourceNames) > 0 {
		text += " named " + strings.Join(r.ResourceNames, ",")
	}
	return text
}

// anybody's rights, those of every service account.
var anybody = []string{
	"create selfsubjectaccessreviews,selfsubjectrulesreviews of authorization.k8s.io",
	"create selfsubjectreviews of authentication.k8s.io",
	"get,list,watch clustertrustbundles of certificates.k8s.io",
}

// TestRights: what each service account may do, all of it, in its own namespace.
func TestRights(t *testing.T) {
	c, _ := start(t)
	for _, test := range []struct {
		account, in string
		want        []string
	}{
		{"flannel", "kube-system", []string{"get,list,watch nodes", "patch nodes/status"}},
		{"coredns", "kube-system", []string{"list,watch services,namespaces", "list,watch endpointslices of discovery.k8s.io"}},
		{"keyservice", "kube-system", []string{"create tokenreviews of authentication.k8s.io"}},
		{"keyservice", "constellation-keys", []string{"create tokenreviews of authentication.k8s.io", "get,create secrets"}},
		{"joinservice", "kube-system", []string{
			"get configmaps named constellation-policy,constellation-cluster", "create events",
			"get,list,watch certificatesigningrequests of certificates.k8s.io",
			"update certificatesigningrequests/approval of certificates.k8s.io",
			"approve signers of certificates.k8s.io named kubernetes.io/kubelet-serving",
		}},
		{"joinservice", "constellation-nodes", []string{
			"get,create,update configmaps",
			"get,list,watch certificatesigningrequests of certificates.k8s.io",
			"update certificatesigningrequests/approval of certificates.k8s.io",
			"approve signers of certificates.k8s.io named kubernetes.io/kubelet-serving",
		}},
		{"verificationservice", "kube-system", nil},
		{"keyservice", "default", []string{"create tokenreviews of authentication.k8s.io"}},
		{"kube-proxy", "kube-system", []string{
			// Kubernetes' own role.
			"list,watch endpoints,services", "get,list,watch nodes", "create,patch,update events of ,events.k8s.io",
			"list,watch endpointslices of discovery.k8s.io", "list,watch servicecidrs of networking.k8s.io",
		}},
	} {
		t.Run(test.account+" in "+test.in, func(t *testing.T) {
			var answer struct {
				Status struct {
					ResourceRules []rule
					Incomplete    bool
				}
			}
			review := map[string]any{
				"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
				"spec": map[string]any{"namespace": test.in},
			}
			as := *c
			as.Admin = c.As(c.Token(t, "kube-system", test.account, "https://kubernetes.default.svc"))
			if err := as.Do(t.Context(), http.MethodPost, "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review, &answer); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range answer.Status.ResourceRules {
				if text := r.String(); !slices.Contains(anybody, text) {
					got = append(got, text)
				}
			}
			slices.Sort(got)
			slices.Sort(test.want)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	testReviews(t, c)
}

// testReviews asks about those who are no service accounts, and some things that
// nobody of ours may do.
func testReviews(t *testing.T, c *controlplanetest.Cluster) {
	const joining = "system:bootstrappers:kubeadm:default-node-token"
	const certificates = "certificatesigningrequests"
	for _, test := range []struct {
		user, group, verb, resource string // RESOURCE[/SUBRESOURCE][.GROUP]
		want                        bool
	}{
		{"system:bootstrap:abcdef", joining, "create", certificates + ".certificates.k8s.io", true},
		{"system:bootstrap:abcdef", joining, "create", certificates + "/nodeclient.certificates.k8s.io", true},
		{"system:bootstrap:abcdef", joining, "create", certificates + "/selfnodeclient.certificates.k8s.io", false},
		{"system:bootstrap:abcdef", joining, "get", "nodes", true},
		{"system:bootstrap:abcdef", joining, "list", "nodes", false},
		{"system:bootstrap:abcdef", joining, "get", "secrets", false},
		{"system:bootstrap:abcdef", joining, "update", certificates + "/approval.certificates.k8s.io", false},
		{"system:node:n", "system:nodes", "create", certificates + "/selfnodeclient.certificates.k8s.io", true},
		{"system:node:n", "system:nodes", "update", certificates + "/approval.certificates.k8s.io", false},
		{"kube-apiserver-kubelet-client", "x", "get", "nodes/proxy", true},
		{"kube-apiserver-kubelet-client", "x", "get", "secrets", false},
		{"system:anonymous", "system:unauthenticated", "get", "configmaps", false},
		{"system:serviceaccount:kube-system:default", "system:serviceaccounts", "get", "configmaps", false},
		{"system:serviceaccount:kube-system:flannel", "system:serviceaccounts", "get", "secrets", false},
		{"system:serviceaccount:kube-system:flannel", "system:serviceaccounts", "update", "nodes", false},
		{"system:serviceaccount:kube-system:flannel", "system:serviceaccounts", "create", "pods", false},
		{"system:serviceaccount:kube-system:keyservice", "system:serviceaccounts", "list", "secrets", false},
		{"system:serviceaccount:kube-system:joinservice", "system:serviceaccounts", "get", "secrets", false},
		{"system:serviceaccount:kube-system:joinservice", "system:serviceaccounts", "update", "configmaps", false},
		{"system:serviceaccount:kube-system:joinservice", "system:serviceaccounts", "list", "configmaps", false},
		{"system:serviceaccount:kube-system:joinservice", "system:serviceaccounts", "create", certificates + ".certificates.k8s.io", false},
		{"system:serviceaccount:kube-system:verificationservice", "system:serviceaccounts", "get", "configmaps", false},
	} {
		resource, group, _ := strings.Cut(test.resource, ".")
		resource, sub, _ := strings.Cut(resource, "/")
		review := map[string]any{"spec": map[string]any{"user": test.user, "groups": []string{test.group, "system:authenticated"},
			"resourceAttributes": map[string]any{"verb": test.verb, "group": group, "resource": resource, "subresource": sub, "namespace": "kube-system"}}}
		var answer struct{ Status struct{ Allowed bool } }
		if err := c.Do(t.Context(), http.MethodPost, "/apis/authorization.k8s.io/v1/subjectaccessreviews", review, &answer); err != nil {
			t.Fatal(err)
		}
		if answer.Status.Allowed != test.want {
			t.Errorf("%s may %s %s: %v, want %v", test.user, test.verb, test.resource, answer.Status.Allowed, test.want)
		}
	}
}
