// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements/artifacttest"
)

var sections = []artifacttest.Section{
	{Name: ".osrel", Content: []byte("ID=x\nIMAGE_ID=constellation\nIMAGE_VERSION=\"1.2.3\"\nVARIANT_ID=qemu\n")},
	{Name: ".cmdline", Content: []byte("roothash=00 quiet")},
	{Name: ".uname", Content: []byte("6.12.1")},
}

func TestManifest(t *testing.T) {
	m := Manifest{RootHash: "00", PackageLock: "11"}
	if err := m.ReadUKI(bytes.NewReader(artifacttest.PE(sections, nil))); err != nil {
		t.Fatal(err)
	}
	if err := m.Add("disk.raw", strings.NewReader("disk")); err != nil {
		t.Fatal(err)
	}
	encoded, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	var got Manifest
	if err := json.Unmarshal(encoded, &got); err != nil {
		t.Fatal(err)
	}
	want := Manifest{
		Version: 1, Image: Image{Name: "constellation", Version: "1.2.3", Flavour: "qemu"},
		KernelRelease: "6.12.1", CommandLine: "roothash=00 quiet", RootHash: "00", PackageLock: "11",
		// sha256sum of the four bytes
		Artifacts: []Artifact{{Name: "disk.raw", Size: 4, SHA256: "1044dec7206e8d7c9fbb4ae8f766668406d2567fc7fc1a160a9d4700fcf8f8e9"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("manifest differs (-want +got):\n%s", diff)
	}
}

func TestReadUKIRefuses(t *testing.T) {
	for i, missing := range sections {
		t.Run("no "+missing.Name, func(t *testing.T) {
			rest := append(append([]artifacttest.Section{}, sections[:i]...), sections[i+1:]...)
			var m Manifest
			err := m.ReadUKI(bytes.NewReader(artifacttest.PE(rest, nil)))
			if !errors.Is(err, ErrUKI) || !strings.Contains(err.Error(), missing.Name) {
				t.Errorf("error is %v, want one about %s", err, missing.Name)
			}
		})
	}
	var m Manifest
	if err := m.ReadUKI(strings.NewReader("text")); !errors.Is(err, ErrUKI) {
		t.Errorf("error is %v, want %v", err, ErrUKI)
	}
}
