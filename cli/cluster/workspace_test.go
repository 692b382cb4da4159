// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/attestationtest"
	"github.com/constellation-os/constellation/cli/cluster"
	"github.com/constellation-os/constellation/cli/cluster/nodetest"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/progress"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/initsecret"
	"github.com/constellation-os/constellation/kubernetes/bundle/bundletest"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/predict"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

const patience = 20 * time.Second

const configText = `format: constellation-config/v1
name: example
provider: static
endpoint: api.example.org:6443
kubernetes:
  version: v1.37.2
  components: components.json
  sources: ["https://registry.example.org"]
  podNetwork: 10.244.0.0/16
  serviceNetwork: 10.96.0.0/12
attestation:
  measurements: [measurements.json]
  acceptedUntil: 2099-06-30
  inventory: machines.txt
`

// workspace is an administrator's folder, and a machine that waits.
type workspace struct {
	dir    string
	plan   cluster.InitPlan
	node   *nodetest.Node
	device *attestationtest.Device
	out    bytes.Buffer // JSON events
}

func newWorkspace(t *testing.T) *workspace {
	t.Helper()
	w := &workspace{dir: t.TempDir(), device: attestationtest.NewDevice("image")}
	at := func(name string) string { return filepath.Join(w.dir, name) }
	for name, text := range map[string][]byte{
		"constellation.yaml": []byte(configText), "components.json": components(t), "measurements.json": prediction(t),
		"machines.txt": []byte("node-1 control-plane " + strings.Repeat("5a", 32) + "\n"),
	} {
		if err := os.WriteFile(at(name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := keys.Generate().Create(at("master.json")); err != nil {
		t.Fatal(err)
	}
	hash, err := initsecret.Create(at("secret"))
	if err != nil {
		t.Fatal(err)
	}
	w.node = &nodetest.Node{InitSecretHash: hash, Steps: []api.Step{api.Step_STEP_LOCK, api.Step_STEP_DISK, api.Step_STEP_NODE}}
	w.plan = cluster.InitPlan{
		Config: at("constellation.yaml"), MasterSecret: at("master.json"), InitSecret: at("secret"), NodeName: "node-1", Kubeconfig: at("kubeconfig"),
		Verifier: func(cluster.Trust) (attestation.Verifier, error) { return attestationtest.Accept(w.device), nil },
	}
	return w
}

// components is the encoding of a component set.
func components(t *testing.T) []byte {
	t.Helper()
	return bundletest.Small(t).Set().Encode()
}

// prediction is that of an image which is not one.
func prediction(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	files := map[string][]byte{
		"disk.raw": artifacttest.Disk(artifacttest.File{Path: artifacttest.BootFile, Content: artifacttest.DefaultUKI().Encode()}),
		"code.fd":  artifacttest.FirmwareCode(), "vars.fd": artifacttest.FirmwareVariables(),
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := predict.FromFiles(predict.Files{
		Disk: filepath.Join(dir, "disk.raw"), FirmwareCode: filepath.Join(dir, "code.fd"), FirmwareVariables: filepath.Join(dir, "vars.fd"),
	})
	if err != nil {
		t.Fatal(err)
	}
	data, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// serve starts the node at an address of its own, with some device.
func (w *workspace) serve(t *testing.T, device *attestationtest.Device) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.plan.Node = l.Addr().String()
	go w.node.Serve(t.Context(), l, device)
}

// initialise runs init, with events as JSON.
func (w *workspace) initialise(t *testing.T) (err error) {
	t.Helper()
	w.reporting(t, func(ctx context.Context, r *progress.Reporter) { err = cluster.Initialise(ctx, r, w.plan) })
	return err
}

// reporting does something that reports events, as JSON.
func (w *workspace) reporting(t *testing.T, do func(context.Context, *progress.Reporter)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	sub := &cobra.Command{Use: "sub", RunE: func(cmd *cobra.Command, _ []string) error {
		r, err := progress.New(cmd)
		if err != nil {
			return err
		}
		do(cmd.Context(), r)
		return nil
	}}
	command.Run(ctx, command.New(sub), []string{"sub", "--output", "json"}, &w.out, io.Discard)
}

// events are those that were reported, by step and state.
func (w *workspace) events(t *testing.T) (out []string) {
	t.Helper()
	for line := range strings.Lines(w.out.String()) {
		var e progress.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out = append(out, e.Step+" "+string(e.State))
	}
	return out
}

// nothingSent fails if a call of the node was reached with anything in it.
func (w *workspace) nothingSent(t *testing.T) {
	t.Helper()
	if statuses, requests := w.node.Calls(); statuses != 0 || len(requests) != 0 {
		t.Errorf("the node was sent %d status calls and %d requests", statuses, len(requests))
	}
	if _, err := os.Stat(w.plan.Kubeconfig); err == nil {
		t.Error("there is a kubeconfig")
	}
}
