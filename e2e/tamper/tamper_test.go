// SPDX-License-Identifier: Apache-2.0

package tamper

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/gpt"
	"github.com/constellation-os/constellation/measurements/ovmf"
	"github.com/constellation-os/constellation/measurements/pe"
)

func TestAddonIsAPEImage(t *testing.T) {
	image, err := pe.Parse(Addon("a b"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range image.Sections {
		if s.Name == ".cmdline" {
			if content, err := image.Content(s); err != nil || string(content) != "a b\x00" {
				t.Errorf("the command line is %q, %v", content, err)
			}
			return
		}
	}
	t.Error("there is no command line")
}

func TestAddAllowedHash(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	before := artifacttest.FirmwareVariables(artifacttest.Variable{Vendor: ovmf.GlobalVariable, Name: "PK", Data: []byte("key")})
	if err := os.WriteFile(from, before, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := AddAllowedHash(from, to); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ovmf.ParseVariables(after); err != nil {
		t.Errorf("the changed store is not one: %v", err)
	}
	if bytes.Equal(before, after) {
		t.Error("the store did not change")
	}
}

func TestDiskChanges(t *testing.T) {
	uki := artifacttest.DefaultUKI().With(".cmdline", []byte("quiet loglevel=5"))
	image := artifacttest.Disk(artifacttest.File{Path: artifacttest.BootFile, Content: uki.Encode()})
	dir := t.TempDir()
	from := filepath.Join(dir, "from")
	if err := os.WriteFile(from, image, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := CopyDisk(from, filepath.Join(dir, "to"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if got, err := os.ReadFile(d.Path); err != nil || !bytes.Equal(got, image) {
		t.Fatalf("the copy differs from the image: %v", err)
	}
	if err := d.CommandLine("loglevel=5", "loglevel=6"); err != nil {
		t.Fatal(err)
	}
	if content, _, _, err := d.section(".cmdline"); err != nil || string(content) != "quiet loglevel=6" {
		t.Errorf("the command line is %q, %v", content, err)
	}
	if err := d.CommandLine("loglevel=6", "loglevel=10"); err == nil {
		t.Error("a longer command line was accepted")
	}
	if err := d.RenameRoot("rooT"); err != nil {
		t.Fatal(err)
	}
	changed, err := os.ReadFile(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	table, err := gpt.Parse(bytes.NewReader(changed), int64(len(changed)))
	if err != nil {
		t.Fatal(err)
	}
	if name := table.Partitions[1].Name; name != "rooT" {
		t.Errorf("the root's partition is called %q", name)
	}
}
