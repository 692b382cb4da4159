// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package apply

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/constellation-os/constellation/kubernetes/controlplanetest"
)

const (
	namespace = `{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}`
	configMap = `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "x"}, "data": {"a": "1"}}`
	daemonSet = `{"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d", "namespace": "x"}, "spec": {
		"selector": {"matchLabels": {"app": "d"}}, "template": {"metadata": {"labels": {"app": "d"}},
		"spec": {"containers": [{"name": "d", "image": "d"}]}}}}`
)

var (
	configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	daemonSets = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}
)

// testTime is longer than any test should wait.
const testTime = 2 * time.Minute

func objects(t *testing.T, texts ...string) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	for _, text := range texts {
		all = append(all, object(t, text))
	}
	return all
}

func dynamicClient(t *testing.T, c *controlplanetest.Cluster) dynamic.Interface {
	t.Helper()
	d, err := dynamic.NewForConfig(c.Admin)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func get(t *testing.T, d dynamic.Interface, gvr schema.GroupVersionResource, name string) *unstructured.Unstructured {
	t.Helper()
	o, err := d.Resource(gvr).Namespace("x").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func mustApply(t *testing.T, c *controlplanetest.Cluster, all []*unstructured.Unstructured) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTime)
	defer cancel()
	if err := Apply(ctx, c.Admin, all, nil); err != nil {
		t.Fatal(err)
	}
}

// TestApply: in order whatever the list's, without any effect the second time, with
// our fields taken back from whoever changed them and nobody else's touched.
func TestApply(t *testing.T) {
	c := controlplanetest.Start(t)
	d := dynamicClient(t, c)
	all := objects(t, daemonSet, configMap, namespace)
	var progress []Progress
	if err := Apply(t.Context(), c.Admin, all, func(p Progress) { progress = append(progress, p) }); err != nil {
		t.Fatal(err)
	}
	want := []Progress{{1, 3, "Namespace x"}, {2, 3, "ConfigMap x/c"}, {3, 3, "DaemonSet x/d"}}
	if diff := cmp.Diff(want, progress); diff != "" {
		t.Error(diff)
	}
	first := get(t, d, daemonSets, "d")
	mustApply(t, c, all)
	if again := get(t, d, daemonSets, "d"); again.GetResourceVersion() != first.GetResourceVersion() {
		t.Errorf("changed by applying it again: %s, then %s", first.GetResourceVersion(), again.GetResourceVersion())
	}

	patch := []byte(`{"data": {"a": "2", "b": "3"}}`)
	if _, err := d.Resource(configMaps).Namespace("x").Patch(t.Context(), "c", types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "somebody"}); err != nil {
		t.Fatal(err)
	}
	mustApply(t, c, all)
	data, _, _ := unstructured.NestedStringMap(get(t, d, configMaps, "c").Object, "data")
	if diff := cmp.Diff(map[string]string{"a": "1", "b": "3"}, data); diff != "" {
		t.Error(diff)
	}
}

func TestApplyRefusals(t *testing.T) {
	c := controlplanetest.Start(t)
	mustApply(t, c, objects(t, namespace))
	for _, test := range []struct{ name, object, says string }{
		{"unknown field", `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "x"}, "dta": {}}`, "apply ConfigMap x/c: failed to create typed patch object (x/c; /v1, Kind=ConfigMap): .dta: field not declared in schema"},
		{"invalid", `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "C", "namespace": "x"}}`, `apply ConfigMap x/C: ConfigMap "C" is invalid: metadata.name: Invalid value`},
		{"no namespace", `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}`, "apply ConfigMap c: ConfigMap is in a namespace, and none is named"},
		{"a namespace", `{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "c", "namespace": "x"}}`, "apply Node x/c: Node is in no namespace, and x is named"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), testTime)
			defer cancel()
			if err := Apply(ctx, c.Admin, objects(t, test.object), nil); err == nil || !strings.HasPrefix(err.Error(), test.says) {
				t.Errorf("got  %v\nwant %s", err, test.says)
			}
		})
	}
}

// TestUntilTheEnd: what may come is waited for, and named when time is up.
func TestUntilTheEnd(t *testing.T) {
	c := controlplanetest.Start(t)
	for _, test := range []struct{ name, object, says string }{
		{"no such namespace", configMap, `apply ConfigMap x/c: enough: namespaces "x" not found`},
		{"no such kind", `{"apiVersion": "v1", "kind": "Widget", "metadata": {"name": "w"}}`, "apply Widget w: enough: the API server has no kind Widget in v1"},
		{"no such group", `{"apiVersion": "widgets/v1", "kind": "Widget", "metadata": {"name": "w"}}`, "apply Widget w: enough: resources of widgets/v1: the server could not find the requested resource"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			attempts := 0
			err := Apply(ctx, c.Admin, objects(t, test.object), func(Progress) {
				attempts++
				time.AfterFunc(time.Second, func() { cancel(errors.New("enough")) })
			})
			if err == nil || err.Error() != test.says {
				t.Errorf("got  %v\nwant %s", err, test.says)
			}
			if attempts != 1 {
				t.Errorf("told %d times of the same reason", attempts)
			}
		})
	}
}

// TestAPIServerComesLater: Apply waits for one that is not there, and for rights
// that are not there yet.
func TestAPIServerComesLater(t *testing.T) {
	c := controlplanetest.Start(t)
	c.StopAPIServer()
	ctx, cancel := context.WithTimeout(t.Context(), testTime)
	defer cancel()
	waiting, done := make(chan string, 100), make(chan error, 1)
	go func() {
		done <- Apply(ctx, c.Admin, objects(t, namespace, configMap), func(p Progress) { waiting <- p.Detail })
	}()
	if detail := <-waiting; !strings.HasPrefix(detail, "Namespace x: ") || !strings.HasSuffix(detail, "connect: connection refused") {
		t.Errorf("told of %q", detail)
	}
	c.StartAPIServer(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}

	c.ServiceAccount(t, "x", "late")
	go func() {
		done <- Apply(ctx, c.As(c.Token(t, "x", "late", "https://kubernetes.default.svc")), objects(t, configMap), func(p Progress) { waiting <- p.Detail })
	}()
	for detail := range waiting {
		if strings.Contains(detail, `configmaps "c" is forbidden`) {
			break
		}
	}
	c.BindClusterRole(t, "cluster-admin", "x", "late")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestAnotherServer(t *testing.T) {
	c, other := controlplanetest.Start(t), controlplanetest.NewPKI(t, t.TempDir())
	c.Admin.CAFile = other.CAFile
	ctx, cancel := context.WithTimeout(t.Context(), testTime)
	defer cancel()
	err := Apply(ctx, c.Admin, objects(t, namespace), nil)
	if err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") || ctx.Err() != nil {
		t.Errorf("got %v", err)
	}
}

// set sets an object's status, as its controller or kubelet would.
func set(t *testing.T, d dynamic.ResourceInterface, name, status string) {
	t.Helper()
	if _, err := d.Patch(t.Context(), name, types.MergePatchType, []byte(`{"status": `+status+`}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
}

// here is a node that booted when it says.
var here = Here{Node: "n", Booted: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)}

// running is the status of a pod that is ready, of containers that were started then.
func running(since string) string {
	return `{"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [{"name": "d", "image": "d", "imageID": "",
		"ready": true, "restartCount": 0, "state": {"waiting": null, "running": {"startedAt": "` + since + `"}}, "lastState": {}}]}`
}

// TestWait plays controllers and kubelet, and wants to hear what is missing after
// each of their steps.
func TestWait(t *testing.T) {
	c := controlplanetest.Start(t)
	d := dynamicClient(t, c)
	nodes, sets := d.Resource(schema.GroupVersionResource{Version: "v1", Resource: "nodes"}), d.Resource(daemonSets).Namespace("x")
	pods := d.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace("x")
	all := objects(t, namespace, daemonSet, configMap)
	mustApply(t, c, all)
	ctx, cancel := context.WithTimeout(t.Context(), testTime)
	defer cancel()
	told, done := make(chan Progress), make(chan error, 1)
	go func() {
		done <- Wait(ctx, c.Admin, all, here, func(p Progress) { told <- p })
		close(told)
	}()
	want := func(done int, detail string) {
		t.Helper()
		if got := <-told; got != (Progress{done, 3, detail}) {
			t.Errorf("told of %+v\nwant %d of 3: %s", got, done, detail)
		}
	}
	// Until its status is set, a node's conditions say nothing.
	want(1, "node n has not joined; DaemonSet x/d: not taken up yet")
	c.Create(t, "/api/v1/nodes", controlplanetest.Named("n"))
	want(1, "node n is not ready: kubelet has not reported yet; DaemonSet x/d: not taken up yet")
	set(t, nodes, "n", `{"conditions": [{"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "cni plugin not initialized", "lastHeartbeatTime": "2026-01-02T00:00:01Z"}]}`)
	want(1, "node n is not ready: KubeletNotReady: cni plugin not initialized; DaemonSet x/d: not taken up yet")
	set(t, nodes, "n", `{"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T23:59:59Z"}]}`)
	want(1, "node n is not ready: kubelet has not reported since it booted; DaemonSet x/d: not taken up yet")
	set(t, nodes, "n", `{"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-02T00:00:01Z"}]}`)
	want(2, "DaemonSet x/d: not taken up yet")

	set(t, sets, "d", `{"observedGeneration": 1, "desiredNumberScheduled": 2, "currentNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0}`)
	want(2, "DaemonSet x/d: 0 of 2 pods available")
	c.ServiceAccount(t, "x", "default")
	create := func(name, node, more string) {
		t.Helper()
		c.Create(t, "/api/v1/namespaces/x/pods", object(t, `{"metadata": {"name": "`+name+`", "labels": {"app": "d"}`+more+`}, "spec": {"nodeName": "`+node+`", "containers": [{"name": "d", "image": "d"}]}}`).Object)
	}
	create("d-2", "another", "") // of which nothing is wanted
	set(t, sets, "d", `{"observedGeneration": 1, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "currentNumberScheduled": 1, "numberMisscheduled": 0, "numberReady": 1, "numberAvailable": 1}`)
	want(2, "DaemonSet x/d: no pod on node n")
	create("d-1", "n", "")
	want(2, "DaemonSet x/d: not ready on node n (d-1: kubelet has not started it)")
	warn(t, c, "d-1", "FailedMount", `hostPath type check failed: /run/x is not a directory`)
	want(2, "DaemonSet x/d: not ready on node n (d-1: kubelet has not started it: FailedMount: hostPath type check failed: /run/x is not a directory)")
	set(t, pods, "d-1", `{"phase": "Pending", "containerStatuses": [{"name": "d", "image": "d", "imageID": "", "ready": false, "restartCount": 3,
		"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 3}}}]}`)
	want(2, "DaemonSet x/d: not ready on node n (d-1: CrashLoopBackOff: ended with code 3)")
	set(t, pods, "d-1", running("2026-01-01T00:00:00Z"))
	want(2, "DaemonSet x/d: not ready on node n (d-1: has not been started since the node booted: FailedMount: hostPath type check failed: /run/x is not a directory)")
	c.Create(t, "/api/v1/namespaces/x/pods", object(t, `{"metadata": {"name": "static-n", "annotations": {"kubernetes.io/config.mirror": "1"}}, "spec": {"nodeName": "n", "containers": [{"name": "s", "image": "s"}]}}`).Object)
	want(1, "static-n: kubelet has not started it; DaemonSet x/d: not ready on node n (d-1: has not been started since the node booted: FailedMount: hostPath type check failed: /run/x is not a directory)")
	set(t, pods, "d-1", running("2026-01-02T00:00:01Z"))
	want(2, "static-n: kubelet has not started it")
	set(t, pods, "static-n", running("2026-01-02T00:00:01Z"))
	want(3, "everything is ready")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	waitEnds(t, c, all)
}

func warn(t *testing.T, c *controlplanetest.Cluster, name, reason, message string) {
	t.Helper()
	var p struct{ Metadata struct{ UID string } }
	if err := c.Do(t.Context(), http.MethodGet, "/api/v1/namespaces/x/pods/"+name, nil, &p); err != nil {
		t.Fatal(err)
	}
	event := controlplanetest.Named(name + "-1")
	event["type"], event["reason"], event["message"] = "Warning", reason, message
	event["involvedObject"] = map[string]any{"kind": "Pod", "namespace": "x", "name": name, "uid": p.Metadata.UID}
	event["lastTimestamp"] = "2026-01-01T00:00:00Z"
	c.Create(t, "/api/v1/namespaces/x/events", event)
}

// waitEnds: when time is up, the error says what is missing.
func waitEnds(t *testing.T, c *controlplanetest.Cluster, all []*unstructured.Unstructured) {
	all[1].Object["spec"].(map[string]any)["minReadySeconds"] = int64(5)
	mustApply(t, c, all)
	ctx, cancel := context.WithCancelCause(t.Context())
	err := Wait(ctx, c.Admin, all, here, func(Progress) { cancel(errors.New("enough")) })
	if want := "wait for the cluster: enough: DaemonSet x/d: not taken up yet"; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}
