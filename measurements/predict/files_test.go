// SPDX-License-Identifier: Apache-2.0

package predict_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/predict"
)

// onDisk writes artifacts to files.
func onDisk(t *testing.T) predict.Files {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return predict.Files{
		Disk:              write("disk.raw", artifacttest.Disk(artifacttest.File{Path: artifacttest.BootFile, Content: artifacttest.DefaultUKI().Encode()})),
		FirmwareCode:      write("code.fd", artifacttest.FirmwareCode()),
		FirmwareVariables: write("vars.fd", artifacttest.FirmwareVariables()),
	}
}

// A shape is given as a file, as a value, or not at all.
func TestShapeOfFiles(t *testing.T) {
	shape := measurements.QEMU()
	shape.CPUs = 7
	file := filepath.Join(t.TempDir(), "machine.json")
	text := `{"board":"pc-q35-10.0","cpu":"max","cpus":5,"memory_mib":512,"devices":[{"slot":3,"model":"virtio-blk-pci","boot":true}]}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(f *predict.Files)
		want   int // processors
	}{
		"declared": {func(*predict.Files) {}, measurements.QEMU().CPUs},
		"value":    {func(f *predict.Files) { f.Shape = &shape }, 7},
		"file":     {func(f *predict.Files) { f.Machine = file }, 5},
	} {
		f := onDisk(t)
		test.change(&f)
		asked := 0
		f.AskFirmwareConfig = func(m measurements.Machine) (map[string][]byte, error) {
			asked = m.CPUs
			return acpiFiles(), nil
		}
		p, err := predict.FromFiles(f)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff([]int{test.want, test.want}, []int{p.Machine.CPUs, asked}); diff != "" {
			t.Errorf("%s: processors predicted for and asked for (-want +got): %s", name, diff)
		}
	}
	f := onDisk(t)
	f.Shape, f.Machine = &shape, file
	if _, err := predict.FromFiles(f); err == nil || !strings.Contains(err.Error(), "two sources of the machine's shape") {
		t.Errorf("a shape by value and by file: %v", err)
	}
}
