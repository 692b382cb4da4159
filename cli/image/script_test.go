// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/image"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/predict"
	"github.com/constellation-os/constellation/measurements/tcg"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"constellation": func() {
			os.Exit(command.Run(context.Background(), command.New(image.Command()), os.Args[1:], os.Stdout, os.Stderr))
		},
	})
}

// The scripts in testdata see the command as people do. They find stand-ins for
// a disk, firmware and the reports of machines.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata",
		Setup: func(env *testscript.Env) error { return writeArtifacts(env.WorkDir) },
	})
}

func writeArtifacts(dir string) error {
	boot := artifacttest.File{Path: artifacttest.BootFile, Content: artifacttest.DefaultUKI().Encode()}
	credential := artifacttest.File{Path: "loader/credentials/x.cred", Content: []byte("x")}
	files := map[string][]byte{
		"disk.raw":       artifacttest.Disk(boot),
		"credential.raw": artifacttest.Disk(boot, credential),
		"short.raw":      artifacttest.Disk(boot)[:100_000],
		"code.fd":        artifacttest.FirmwareCode(),
		"vars.fd":        artifacttest.FirmwareVariables(),
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	p, err := predict.FromFiles(predict.Files{
		Disk: filepath.Join(dir, "disk.raw"), FirmwareCode: filepath.Join(dir, "code.fd"), FirmwareVariables: filepath.Join(dir, "vars.fd"),
	})
	if err != nil {
		return err
	}
	good := artifacttest.EventsOf(p)
	tampered := append(artifacttest.EventsOf(p), artifacttest.LogEvent{
		PCR: 12, Type: tcg.IPL, Digests: measurements.Sum([]byte("x")), Data: artifacttest.UTF16("Credentials initrd"),
	})
	single := artifacttest.Observed(p, good)
	delete(single.PCRs, measurements.SHA384)
	cut := artifacttest.Observed(p, good)
	cut.EventLog = cut.EventLog[:len(cut.EventLog)-1]
	for name, o := range map[string]*measurements.Observed{
		"observed.json": artifacttest.Observed(p, good),
		"tampered.json": artifacttest.Observed(p, tampered),
		"cutlog.json":   cut,
		"single.json":   single,
		"cluster.json":  artifacttest.Observed(p.Initialized(bytes.Repeat([]byte{0xab}, measurements.ClusterIDSize)), good),
	} {
		data, err := json.Marshal(o)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
