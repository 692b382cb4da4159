// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := json.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestOrder(t *testing.T) {
	var objects []*unstructured.Unstructured
	for _, kind := range []string{"Widget", "Deployment", "ConfigMap", "Service", "ClusterRoleBinding", "DaemonSet", "ServiceAccount", "ClusterRole", "Namespace"} {
		objects = append(objects, object(t, `{"apiVersion": "v1", "kind": "`+kind+`", "metadata": {"name": "x"}}`))
	}
	var got []string
	for _, o := range sorted(objects) {
		got = append(got, o.GetKind())
	}
	want := []string{"Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap", "Service", "DaemonSet", "Deployment", "Widget"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if objects[0].GetKind() != "Widget" {
		t.Error("the caller's list was changed")
	}
}

func TestClassify(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	request := func(err error) error { return &url.Error{Op: "Get", URL: "https://x", Err: err} }
	for _, test := range []struct {
		name string
		err  error
		want class
	}{
		{"nobody listens", request(syscall.ECONNREFUSED), transient},
		{"a request took too long", request(context.DeadlineExceeded), transient},
		{"the answer broke off", fmt.Errorf("body: %w", io.ErrUnexpectedEOF), transient},
		{"overloaded", apierrors.NewTooManyRequests("x", 1), transient},
		{"starting", apierrors.NewServiceUnavailable("x"), transient},
		{"etcd does not answer", apierrors.NewInternalError(errors.New("x")), transient},
		{"changed meanwhile", apierrors.NewConflict(pods, "x", errors.New("x")), transient},
		{"no right yet", apierrors.NewForbidden(pods, "x", errors.New("x")), unsettled},
		{"no namespace yet", apierrors.NewNotFound(pods, "x"), unsettled},
		{"no kind yet", fmt.Errorf("x: %w", unknownKind{}), unsettled},
		{"invalid", apierrors.NewInvalid(schema.GroupKind{}, "x", nil), permanent},
		{"unknown field", apierrors.NewBadRequest("x"), permanent},
		{"not one of its clients", apierrors.NewUnauthorized("x"), permanent},
		{"another server", request(&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}), permanent},
		{"ours", errors.New("x"), permanent},
	} {
		if got := classify(test.err); got != test.want {
			t.Errorf("%s: got %d, want %d", test.name, got, test.want)
		}
	}
}

func TestPodProblems(t *testing.T) {
	for _, test := range []struct{ name, status, want string }{
		{"ready", `{"conditions": [{"type": "Ready", "status": "True"}]}`, ""},
		{"no status", `{}`, "kubelet has not started it"},
		{"no node", `{"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available:\n1 too small"}]}`,
			"on no node yet: 0/1 nodes are available: 1 too small"},
		{"evicted", `{"reason": "Evicted", "message": "no memory"}`, "Evicted: no memory"},
		{"image", `{"containerStatuses": [{"state": {"waiting": {"reason": "ErrImageNeverPull", "message": "not present"}}}]}`, "ErrImageNeverPull: not present"},
		{"crashing", `{"containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
			"lastState": {"terminated": {"exitCode": 3, "message": "no such file"}}}]}`, "CrashLoopBackOff: ended with code 3: no such file: back-off 10s"},
		{"ended", `{"containerStatuses": [{"state": {"terminated": {"exitCode": 1}}}]}`, "ended with code 1"},
		{"not ready", `{"containerStatuses": [{"ready": true, "state": {"running": {}}}, {"state": {"running": {}}}]}`, "runs, is not ready yet"},
		{"first what comes first", `{"initContainerStatuses": [{"state": {"waiting": {"reason": "A"}}}], "containerStatuses": [{"state": {"waiting": {"reason": "B"}}}]}`, "A"},
		{"much text", `{"reason": "` + strings.Repeat("é", 400) + `"}`, strings.Repeat("é", 300) + "…"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var p pod
			if err := convert(object(t, `{"status": `+test.status+`}`), &p); err != nil {
				t.Fatal(err)
			}
			if got := p.problem(time.Time{}); got != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

// TestBeforeTheBoot: what a pod was before its node booted, it is no more.
func TestBeforeTheBoot(t *testing.T) {
	booted := time.Date(2026, 1, 2, 3, 4, 5, 600e6, time.UTC)
	for _, test := range []struct{ name, first, second, want string }{
		{"since", `{"running": {"startedAt": "2026-01-02T03:04:06Z"}}`, `{"running": {"startedAt": "2026-01-02T03:05:00Z"}}`, ""},
		{"before", `{"running": {"startedAt": "2026-01-02T03:04:05Z"}}`, `{"running": {"startedAt": "2026-01-02T03:04:05Z"}}`, "has not been started since the node booted"},
		{"one of two", `{"running": {"startedAt": "2026-01-02T03:04:06Z"}}`, `{"running": {"startedAt": "2026-01-01T00:00:00Z"}}`, "has not been started since the node booted"},
		{"one that does not run", `{"running": {"startedAt": "2026-01-02T03:04:06Z"}}`, `{}`, "has not been started since the node booted"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var p pod
			status := fmt.Sprintf(`{"status": {"conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [{"state": %s}, {"state": %s}]}}`, test.first, test.second)
			if err := convert(object(t, status), &p); err != nil {
				t.Fatal(err)
			}
			if got := p.problem(booted); got != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

func TestWorkloads(t *testing.T) {
	const ready = ""
	for _, test := range []struct{ name, object, want string }{
		{"daemon set", `{"kind": "DaemonSet", "metadata": {"generation": 2}, "status": {"observedGeneration": 2, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 3}}`, ready},
		{"just applied", `{"kind": "DaemonSet", "metadata": {"generation": 2}, "status": {"observedGeneration": 1, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 3}}`, "not taken up yet"},
		{"no nodes", `{"kind": "DaemonSet", "metadata": {"generation": 1}, "status": {"observedGeneration": 1}}`, "no pod is wanted"},
		{"one missing", `{"kind": "DaemonSet", "status": {"desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 2}}`, ready}, // another node's, perhaps
		{"none", `{"kind": "DaemonSet", "status": {"desiredNumberScheduled": 3, "updatedNumberScheduled": 3}}`, "0 of 3 pods available"},
		{"one old", `{"kind": "DaemonSet", "status": {"desiredNumberScheduled": 3, "updatedNumberScheduled": 2, "numberAvailable": 3}}`, "2 of 3 pods updated"},
		{"deployment", `{"kind": "Deployment", "spec": {"replicas": 2}, "status": {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}}`, ready},
		{"one replica by default", `{"kind": "Deployment", "status": {"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}}`, ready},
		{"an old pod left", `{"kind": "Deployment", "status": {"replicas": 2, "updatedReplicas": 1, "availableReplicas": 1}}`, "old pods still run: 1"},
		{"refused", `{"kind": "Deployment", "status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "forbidden"}]}}`,
			"0 of 1 pods available: FailedCreate: forbidden"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, err := parseWorkload(object(t, test.object))
			if err != nil {
				t.Fatal(err)
			}
			if got := w.lacks(); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestTold(t *testing.T) {
	var got []string
	tell := teller(func(p Progress) { got = append(got, p.Detail) })
	for _, detail := range []string{"a", "a", "b", "a"} {
		tell(Progress{Detail: detail})
	}
	if diff := cmp.Diff([]string{"a", "b", "a"}, got); diff != "" {
		t.Error(diff)
	}
	teller(nil)(Progress{Detail: "a"})
}
