// SPDX-License-Identifier: Apache-2.0

package measurements_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/predict"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"constellation": func() {
			os.Exit(command.Run(context.Background(), command.New(measurements.Command()), os.Args[1:], os.Stdout, os.Stderr))
		},
	})
}

// The scripts in testdata see the command as people do. They find two images, "image" and
// "other", and firmware.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", Setup: func(env *testscript.Env) error {
		env.Setenv("CONSTELLATION_FIRMWARE", filepath.Join(env.WorkDir, "firmware"))
		uki := artifacttest.DefaultUKI()
		for name, content := range map[string]artifacttest.UKISections{"image": uki, "other": uki.With(".cmdline", []byte("another"))} {
			if err := writeImage(env.WorkDir, name, content.Encode()); err != nil {
				return err
			}
		}
		return nil
	}})
}

func writeImage(dir, name string, uki []byte) error {
	files := map[string][]byte{
		filepath.Join(name, "disk.raw"):              artifacttest.Disk(artifacttest.File{Path: artifacttest.BootFile, Content: uki}),
		filepath.Join("firmware", "OVMF_CODE_4M.fd"): artifacttest.FirmwareCode(),
		filepath.Join("firmware", "OVMF_VARS_4M.fd"): artifacttest.FirmwareVariables(),
	}
	for path, content := range files {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return err
		}
	}
	p, err := predict.FromFiles(predict.Files{
		Disk: filepath.Join(dir, name, "disk.raw"), FirmwareCode: filepath.Join(dir, "firmware", "OVMF_CODE_4M.fd"), FirmwareVariables: filepath.Join(dir, "firmware", "OVMF_VARS_4M.fd"),
	})
	if err != nil {
		return err
	}
	data, err := p.JSON()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name, "measurements.json"), data, 0o600)
}
