// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/config"
	"github.com/constellation-os/constellation/kubernetes/bundle"
	"github.com/constellation-os/constellation/kubernetes/bundle/bundletest"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/predict"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"constellation": func() {
			os.Exit(command.Run(context.Background(), command.New(config.Command()), os.Args[1:], os.Stdout, os.Stderr))
		},
	})
}

// The scripts in testdata see the command as people do. They find a component set and
// the measurements of an image.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Setup: func(env *testscript.Env) error {
		if _, err := bundle.Create(filepath.Join(env.WorkDir, "bundle"), bundletest.Contents(t)); err != nil {
			return err
		}
		return writeMeasurements(env.WorkDir, t.TempDir())
	}})
}

func writeMeasurements(to, dir string) error {
	for name, content := range map[string][]byte{
		"disk.raw": artifacttest.Disk(artifacttest.File{Path: artifacttest.BootFile, Content: artifacttest.DefaultUKI().Encode()}),
		"code.fd":  artifacttest.FirmwareCode(), "vars.fd": artifacttest.FirmwareVariables(),
	} {
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
	data, err := p.JSON()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, "measurements.json"), data, 0o600)
}
