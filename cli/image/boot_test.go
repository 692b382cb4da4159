// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/image"
	"github.com/constellation-os/constellation/measurements/predict"
)

// publish makes dir an image's folder with its measurements.
func publish(t *testing.T, dir string) {
	t.Helper()
	if err := writeArtifacts(dir); err != nil {
		t.Fatal(err)
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
	if err := os.WriteFile(filepath.Join(dir, "measurements.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Boots themselves are tested on machines, by //e2e:boot_test.
func TestBootSaysWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	publish(t, dir)
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, "measurements.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	huge := t.TempDir()
	if err := os.WriteFile(filepath.Join(huge, "measurements.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(huge, "measurements.json"), 1<<32); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", t.TempDir())
	firmware := []string{"--firmware-code", filepath.Join(dir, "code.fd"), "--firmware-vars", filepath.Join(dir, "vars.fd")}
	tests := map[string]struct {
		args []string
		want []string
	}{
		"no image named":      {nil, []string{"--image", "tools/bazel build //image:qemu"}},
		"no measurements":     {[]string{"--image", t.TempDir()}, []string{"read what the image must measure", "measurements.json"}},
		"broken measurements": {[]string{"--image", broken}, []string{"measurements.json: measurements: malformed"}},
		"huge measurements":   {[]string{"--image", huge}, []string{"measurements.json: more than 1048576 bytes"}},
		"no firmware":         {[]string{"--image", dir, "--firmware-code", "/none", "--firmware-vars", "/none"}, []string{"the firmware /none does not exist", "apt-get install ovmf"}},
		"no QEMU":             {append([]string{"--image", dir}, firmware...), []string{"qemu-system-x86_64 is not installed: install the package qemu-system-x86", "swtpm-tools"}},
		"impossible machine":  {append([]string{"--image", dir, "--cpus", "1000"}, firmware...), []string{"1000 CPUs"}},
		"too much memory":     {append([]string{"--image", dir, "--memory", "1048576"}, firmware...), []string{"not enough memory: 1048832 MiB needed"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var out, errors bytes.Buffer
			code := command.Run(t.Context(), command.New(image.Command()), append([]string{"image", "boot"}, tc.args...), &out, &errors)
			if code != command.ExitError {
				t.Errorf("exit code %d, want %d", code, command.ExitError)
			}
			for _, want := range tc.want {
				if !strings.Contains(errors.String(), want) {
					t.Errorf("the message lacks %q: %s", want, &errors)
				}
			}
			if out.Len() > 0 {
				t.Errorf("standard output has %q", &out)
			}
		})
	}
}
