// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/constellation-os/constellation/cli/local/supervisor"
	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/e2e/adversarytest"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/services/keyservice/client"
)

// carrier is a pod that passes connections on to KeyService, and nothing else; hider one
// that takes a static pod's manifest away for a while. IMAGE is the user's, NODE the
// control plane.
const (
	carrier = `{apiVersion: v1, kind: Pod, metadata: {name: carrier}, spec: {nodeName: NODE, hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet,
  tolerations: [{operator: Exists}], containers: [{name: carrier, image: IMAGE, imagePullPolicy: Never,
  args: [carry, "9700", "keyservice.kube-system.svc.cluster.local:9443"]}]}}`
	carrierPort = 9700

	hider = `{apiVersion: v1, kind: Pod, metadata: {name: hider}, spec: {nodeName: NODE, restartPolicy: Never, tolerations: [{operator: Exists}],
  containers: [{name: hider, image: IMAGE, imagePullPolicy: Never, args: [hide, /manifests/kube-apiserver.yaml, "240"],
  securityContext: {runAsUser: 0}, volumeMounts: [{name: manifests, mountPath: /manifests}]}],
  volumes: [{name: manifests, hostPath: {path: /etc/kubernetes/manifests, type: Directory}}]}}`
)

// start makes a pod on the control plane, and waits until it runs.
func (a *adversary) start(t *testing.T, pod, name string) {
	t.Helper()
	objects := strings.NewReplacer("IMAGE", a.image, "NODE", controlPlane).Replace(pod)
	eventually(t, podDeadline, func(ctx context.Context) error { // until its account is there
		_, err := a.try(ctx, objects, "apply", "--server-side", "--filename=-")
		return err
	})
	a.kubectl.run(t, "wait", "--for=condition=Ready", "pod/"+name, "--timeout=5m")
}

// pods: who asks KeyService for a key is somebody with a token of a service account, in a
// pod. It answers JoinService alone, and that only for what it needs.
func (a *adversary) pods(t *testing.T) {
	a.start(t, carrier, "carrier")
	audit := a.follow(t, "keyservice")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	folder := supervisor.NewClient(a.folder)
	adversarytest.Forward(t, l, func(ctx context.Context) (net.Conn, error) { return folder.Dial(ctx, controlPlane, carrierPort) })
	authority := filepath.Join(t.TempDir(), "ca.pem")
	pem, err := base64.StdEncoding.DecodeString(a.kubectl.run(t, "config", "view", "--raw", "--output=jsonpath={.clusters[0].cluster.certificate-authority-data}"))
	if err == nil {
		err = os.WriteFile(authority, pem, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	token := func(args ...string) string { return a.kubectl.run(t, append([]string{"create", "token"}, args...)...) }
	const audience = "--audience=constellation-keyservice"
	for _, tc := range []struct {
		name, token string
		purpose     keys.Purpose
		reason      string
	}{
		{"with no token that is one", "a.b.c", keys.PurposeStateDisk, "token"},
		{"with its own token", token("default"), keys.PurposeStateDisk, "audience"},
		{"with its own token for KeyService", token("default", audience), keys.PurposeStateDisk, "not-granted"},
		{"with JoinService's token for the API server", token("joinservice", "--namespace=kube-system"), keys.PurposeStateDisk, "audience"},
		{"as JoinService, for what that does not need", token("joinservice", "--namespace=kube-system", audience), keys.PurposeSecretsEncryption, "not-granted"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mark, file := audit.Mark(), filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(file, []byte(tc.token), 0o600); err != nil {
				t.Fatal(err)
			}
			c, err := client.New(client.Config{Target: "passthrough:///" + l.Addr().String(), ServerName: "keyservice.kube-system.svc", CAFile: authority, TokenFile: file})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if _, err = c.DataKey(ctx, tc.purpose, a.cluster.ControlPlane.Disk, disk.KeySize, 0); string(keys.ClassOf(err)) != tc.reason {
				t.Errorf("the pod is told %v, want %q", err, tc.reason)
			}
			audit.Await(t, mark, adversarytest.Record{"msg": "data key", "verdict": "refused", "reason": tc.reason, "purpose": string(tc.purpose), "id": a.cluster.ControlPlane.Disk})
		})
	}
	a.kubectl.run(t, "delete", "pod", "carrier", "--wait=false")
}

// killed: the worker is removed, and joins again. When it has its ticket, and formats its
// disk, JoinService is killed. The worker becomes a node all the same.
func (a *adversary) killed(t *testing.T) {
	a.power(t, true)
	a.must(t, "local", "remove", worker)
	audit := a.cluster.Audit
	mark := audit.Mark()
	joined := make(chan error, 1)
	go func() {
		_, stderr, code := a.administrator.run(t, "local", "up", "--workers", "1")
		if code != 0 {
			joined <- fmt.Errorf("it ended with %d\n%s", code, stderr)
		}
		close(joined)
	}()
	audit.Await(t, mark, adversarytest.Record{"msg": "join-ticket", "verdict": "granted", "name": worker})
	before := a.kubectl.run(t, joinServicePods...)
	a.kubectl.run(t, "delete", "pod", "--namespace=kube-system", "--selector=app.kubernetes.io/name=joinservice", "--force", "--grace-period=0")
	accepted := adversarytest.Record{"msg": "generation", "verdict": "granted", "name": worker}
	if _, ok := audit.Find(mark, accepted); ok {
		t.Error("JoinService was killed too late: it knows the disk already")
	}
	if err := <-joined; err != nil {
		t.Fatal(err)
	}
	if after := a.kubectl.run(t, joinServicePods...); after == before {
		t.Errorf("JoinService is the same pod as before: %s", after)
	}
	audit.Await(t, mark, accepted)
	a.awaitNodes(t, nil, controlPlane, worker)
	if names := strings.Join(a.bound(t, "name"), " "); strings.Count(names, worker) != 1 {
		t.Errorf("nodes are %s", names)
	}
}

// joinServicePods names JoinService's pod.
var joinServicePods = []string{"get", "pods", "--namespace=kube-system", "--selector=app.kubernetes.io/name=joinservice", "--output=jsonpath={.items[*].metadata.uid}"}

// cutOff: the API server goes away for a few minutes, and JoinService with it, which lives
// on what it has in memory. Who asks is told to come again.
func (a *adversary) cutOff(t *testing.T) {
	a.start(t, hider, "hider")
	ready := func(ctx context.Context) error {
		_, err := a.try(ctx, "", "get", "--raw=/readyz", "--request-timeout=5s")
		return err
	}
	eventually(t, 3*time.Minute, func(ctx context.Context) error {
		if ready(ctx) == nil {
			return errors.New("the API server is there")
		}
		return nil
	})
	adversarytest.APIServerAway(t, a.cluster)
	eventually(t, nodeDeadline, ready)
	a.awaitNodes(t, nil, controlPlane, worker)
}
