// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/constellation-os/constellation/attestation/attestationtest"
	"github.com/constellation-os/constellation/cli/cluster"
	"github.com/constellation-os/constellation/cli/cluster/nodetest"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/initsecret"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"constellation": func() {
			os.Exit(command.Run(context.Background(), command.New(cluster.Commands()...), os.Args[1:], os.Stdout, os.Stderr))
		},
	})
}

// The scripts in testdata see the commands as people do. They find an administrator's
// folder, the address $NODE of a machine that proves itself by a technology which no
// policy allows, and a kubeconfig as init writes it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", Setup: func(env *testscript.Env) error {
		for name, text := range map[string][]byte{
			"constellation.yaml": []byte(configText), "components.json": components(t), "measurements.json": prediction(t),
			"machines.txt": []byte("node-1 control-plane " + strings.Repeat("5a", 32) + "\n"), "kubeconfig": nodetest.Kubeconfig("example"),
		} {
			if err := os.WriteFile(filepath.Join(env.WorkDir, name), text, 0o600); err != nil {
				return err
			}
		}
		if err := keys.Generate().Create(filepath.Join(env.WorkDir, "constellation-master-secret.json")); err != nil {
			return err
		}
		if _, err := initsecret.Create(filepath.Join(env.WorkDir, initsecret.DefaultFile)); err != nil {
			return err
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(context.Background())
		node := &nodetest.Node{}
		go node.Serve(ctx, l, attestationtest.NewDevice("image"))
		env.Defer(func() {
			cancel()
			if statuses, requests := node.Calls(); statuses != 0 || len(requests) != 0 {
				panic(fmt.Sprintf("a machine that was refused was sent %d status calls and %d requests", statuses, len(requests)))
			}
		})
		env.Setenv("NODE", l.Addr().String())
		return nil
	}})
}
