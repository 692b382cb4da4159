// SPDX-License-Identifier: Apache-2.0

package recovery_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/attestationtest"
	"github.com/constellation-os/constellation/cli/cluster"
	"github.com/constellation-os/constellation/cli/cluster/nodetest"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/recovery"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/initsecret"
	"github.com/constellation-os/constellation/kubernetes/bundle/bundletest"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/predict"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// device is what the scripts' machines prove to be.
func device() *attestationtest.Device {
	return attestationtest.NewDeviceFromSeed("image", [32]byte{1})
}

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"constellation": func() {
			o := recovery.Options{Verifier: func(cluster.Trust) (attestation.Verifier, error) { return attestationtest.Accept(device()), nil }}
			os.Exit(command.Run(context.Background(), command.New(recovery.Command(o)), os.Args[1:], os.Stdout, os.Stderr))
		},
	})
}

// The scripts in testdata see the command as people do. They find an administrator's
// folder and machines: $WAITING waits for its owner, $MEMBER is a member of the cluster,
// $BLANK has a blank disk, $STRANGER is not what it should be.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", Setup: func(env *testscript.Env) error {
		ring := keys.Generate()
		id, err := ring.ClusterID()
		if err != nil {
			return err
		}
		if err := ring.Create(filepath.Join(env.WorkDir, "constellation-master-secret.json")); err != nil {
			return err
		}
		if err := keys.Generate().Create(filepath.Join(env.WorkDir, "another-master-secret.json")); err != nil {
			return err
		}
		if _, err := initsecret.Create(filepath.Join(env.WorkDir, "another-init-secret")); err != nil {
			return err
		}
		hash, err := initsecret.Create(filepath.Join(env.WorkDir, initsecret.DefaultFile))
		if err != nil {
			return err
		}
		writeInputs(t, env.WorkDir)
		ctx, cancel := context.WithCancel(context.Background())
		env.Defer(cancel)
		stranger := *device()
		stranger.Image = "another image"
		for name, m := range map[string]struct {
			state  api.State
			disk   api.Disk
			issuer attestation.Issuer
		}{
			"WAITING":  {api.State_STATE_JOINING, api.Disk_DISK_NODE, device()},
			"MEMBER":   {api.State_STATE_MEMBER, api.Disk_DISK_NODE, device()},
			"BLANK":    {api.State_STATE_WAITING, api.Disk_DISK_FRESH, device()},
			"STRANGER": {api.State_STATE_JOINING, api.Disk_DISK_NODE, &stranger},
		} {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			n := &nodetest.Node{InitSecretHash: hash, Of: id, State: m.state, Disk: m.disk, Steps: []api.Step{api.Step_STEP_DISK, api.Step_STEP_NODE}}
			go n.Serve(ctx, l, m.issuer)
			env.Setenv(name, l.Addr().String())
		}
		return nil
	}})
}

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

// writeInputs writes a configuration and what it names.
func writeInputs(t *testing.T, dir string) {
	t.Helper()
	files := map[string][]byte{
		"constellation.yaml": []byte(configText), "components.json": bundletest.Small(t).Set().Encode(),
		"machines.txt": []byte("node-1 control-plane 5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a\n"),
		"disk.raw":     artifacttest.Disk(artifacttest.File{Path: artifacttest.BootFile, Content: artifacttest.DefaultUKI().Encode()}),
		"code.fd":      artifacttest.FirmwareCode(), "vars.fd": artifacttest.FirmwareVariables(),
	}
	write := func(name string, content []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range files {
		write(name, content)
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
	write("measurements.json", data)
}
