// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package imagetest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/image/manifest"
	"github.com/constellation-os/constellation/image/verity"
	"github.com/constellation-os/constellation/measurements/gpt"
)

// artifact returns the path of a file that the image consists of.
func artifact(t *testing.T, name string) string {
	t.Helper()
	for _, p := range strings.Fields(os.Getenv("CONSTELLATION_ARTIFACTS")) {
		if filepath.Base(p) == name {
			return p
		}
	}
	t.Fatalf("the test was not given %s", name)
	return ""
}

func readArtifact(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(artifact(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// run runs one of the tools out of the locked packages.
func run(t *testing.T, variable string, arguments ...string) (string, error) {
	t.Helper()
	tool, err := filepath.Abs(os.Getenv(variable))
	if err != nil {
		t.Fatal(err)
	}
	output, err := exec.Command(tool, arguments...).CombinedOutput()
	return string(output), err
}

// Budgets in bytes.
const (
	diskBudget = 128 << 20
	ukiBudget  = 40 << 20
)

func TestSizes(t *testing.T) {
	// The disk is read, not asked for its blocks: a copy of it need not be sparse.
	disk := readArtifact(t, "disk.raw")
	used := 0
	zero := make([]byte, 4096)
	for block := range len(disk) / len(zero) {
		if !bytes.Equal(disk[block*len(zero):(block+1)*len(zero)], zero) {
			used += len(zero)
		}
	}
	uki := len(readArtifact(t, "image.efi"))
	t.Logf("disk.raw: %d bytes in use; image.efi: %d bytes", used, uki)
	if used > diskBudget {
		t.Errorf("disk.raw has %d bytes in use, the budget is %d", used, diskBudget)
	}
	if uki > ukiBudget {
		t.Errorf("image.efi has %d bytes, the budget is %d", uki, ukiBudget)
	}
}

func TestManifest(t *testing.T) {
	var m manifest.Manifest
	if err := json.Unmarshal(readArtifact(t, "manifest.json"), &m); err != nil {
		t.Fatal(err)
	}
	if m.Image.Name != "constellation" || m.Image.Flavour != "qemu" || m.Image.Version == "" {
		t.Errorf("image is %+v", m.Image)
	}
	for _, name := range []string{"disk.raw", "image.efi", "measurements.json", "sbom.spdx.json", "root.files.json", "executables.txt"} {
		content := readArtifact(t, name)
		digest := sha256.Sum256(content)
		want := manifest.Artifact{Name: name, Size: int64(len(content)), SHA256: hex.EncodeToString(digest[:])}
		found := false
		for _, a := range m.Artifacts {
			found = found || a == want
		}
		if !found {
			t.Errorf("the manifest does not have %+v", want)
		}
	}
	if !strings.HasPrefix(m.CommandLine, "roothash="+m.RootHash+" ") {
		t.Errorf("command line %q does not begin with the root hash", m.CommandLine)
	}
}

// TestCommandLine names what must be on the measured command line for the promises of docs/image.md to hold.
func TestCommandLine(t *testing.T) {
	var m manifest.Manifest
	if err := json.Unmarshal(readArtifact(t, "manifest.json"), &m); err != nil {
		t.Fatal(err)
	}
	words := map[string]bool{}
	for _, word := range strings.Fields(m.CommandLine) {
		words[word] = true
	}
	for _, word := range []string{
		"lockdown=confidentiality", "module.sig_enforce=1", "efi=noruntime", "panic=10", "oops=panic",
		"systemd.import_credentials=no", "systemd.crash_shell=no", "constellation.flavour=qemu",
	} {
		if !words[word] {
			t.Errorf("%s is not on the command line", word)
		}
	}
}

// partitions copies root and tree out of the disk.
func partitions(t *testing.T) (root, tree, hash string) {
	t.Helper()
	raw := readArtifact(t, "disk.raw")
	table, err := gpt.Parse(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	paths := []string{filepath.Join(dir, "esp"), filepath.Join(dir, "root"), filepath.Join(dir, "tree")}
	for i, p := range table.Partitions {
		if err := os.WriteFile(paths[i], raw[p.Offset():p.Offset()+p.Size()], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var m manifest.Manifest
	if err := json.Unmarshal(readArtifact(t, "manifest.json"), &m); err != nil {
		t.Fatal(err)
	}
	return paths[1], paths[2], m.RootHash
}

// TestVeritysetup lets cryptsetup's program check the partitions of the disk with the superblock that nothing of ours
// reads, and then finds one flipped bit.
func TestVeritysetup(t *testing.T) {
	root, tree, hash := partitions(t)
	if output, err := run(t, "VERITYSETUP", "verify", root, tree, hash); err != nil {
		t.Fatalf("veritysetup refuses the root: %v\n%s", err, output)
	}
	file, err := os.OpenFile(root, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	one := make([]byte, 1)
	const somewhere = 1<<20 + 17
	if _, err := file.ReadAt(one, somewhere); err != nil {
		t.Fatal(err)
	}
	one[0] ^= 1
	if _, err := file.WriteAt(one, somewhere); err != nil {
		t.Fatal(err)
	}
	if output, err := run(t, "VERITYSETUP", "verify", root, tree, hash); err == nil {
		t.Errorf("veritysetup accepts a root with a flipped bit:\n%s", output)
	}
}

// TestBlocks: the number of blocks on the command line covers the whole file system, no less.
func TestBlocks(t *testing.T) {
	var m manifest.Manifest
	if err := json.Unmarshal(readArtifact(t, "manifest.json"), &m); err != nil {
		t.Fatal(err)
	}
	for _, word := range strings.Fields(m.CommandLine) {
		text, ok := strings.CutPrefix(word, verity.BlocksParameter+"=")
		if !ok {
			continue
		}
		blocks, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		root := readArtifact(t, "root.erofs")
		if blocks*verity.BlockSize != int64(len(root)) {
			t.Errorf("%d blocks on the command line, the root has %d bytes", blocks, len(root))
		}
		return
	}
	t.Errorf("%s is not on the command line", verity.BlocksParameter)
}

func TestErofs(t *testing.T) {
	root, _, _ := partitions(t)
	if output, err := run(t, "FSCK_EROFS", root); err != nil {
		t.Errorf("fsck.erofs finds errors: %v\n%s", err, output)
	}
}

// TestESP reads the unified kernel image back with mtools.
func TestESP(t *testing.T) {
	raw := readArtifact(t, "disk.raw")
	table, err := gpt.Parse(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	esp := table.Partitions[0]
	dir := t.TempDir()
	image, copied := filepath.Join(dir, "esp"), filepath.Join(dir, "image.efi")
	if err := os.WriteFile(image, raw[esp.Offset():esp.Offset()+esp.Size()], 0o600); err != nil {
		t.Fatal(err)
	}
	if output, err := run(t, "MCOPY", "-i", image, "::EFI/BOOT/BOOTX64.EFI", copied); err != nil {
		t.Fatalf("mcopy: %v\n%s", err, output)
	}
	got, err := os.ReadFile(copied)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, readArtifact(t, "image.efi")) {
		t.Error("the unified kernel image on the ESP is another")
	}
}
