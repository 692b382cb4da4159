// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package fetched

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/image/packages/lock"
)

// runfiles gives the paths of the files that an environment variable of the
// Bazel target lists.
func runfiles(t *testing.T, variable string) []string {
	t.Helper()
	names := strings.Fields(os.Getenv(variable))
	if len(names) == 0 {
		t.Fatalf("%s names no files", variable)
	}
	for i, name := range names {
		names[i] = filepath.Join(os.Getenv("TEST_SRCDIR"), name)
	}
	return names
}

// TestPackagesAreTheLocked compares size and hash of every package.
func TestPackagesAreTheLocked(t *testing.T) {
	l, err := lock.ReadFile(runfiles(t, "LOCK")[0])
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, path := range runfiles(t, "PACKAGES") {
		files[strings.TrimSuffix(filepath.Base(path), ".deb")] = path
	}
	for _, p := range l.Packages {
		data, err := os.ReadFile(files[p.Name])
		if err != nil {
			t.Errorf("%s: %v", p.Name, err)
			continue
		}
		if sum := sha256.Sum256(data); int64(len(data)) != p.Size || hex.EncodeToString(sum[:]) != p.SHA256 {
			t.Errorf("%s: %d bytes with SHA-256 %x, locked are %d with %s", p.Name, len(data), sum, p.Size, p.SHA256)
		}
		delete(files, p.Name)
	}
	for name := range files {
		t.Errorf("%s is fetched but not locked", name)
	}
}

// TestToolsBringTheirLibraries checks that no program or library of the tools
// wants one that is not there: it would come from the machine instead.
func TestToolsBringTheirLibraries(t *testing.T) {
	tool := runfiles(t, "MKFS_EROFS")[0]
	program, err := filepath.EvalSymlinks(filepath.Join(os.Getenv("TEST_SRCDIR"), "_tool", filepath.Base(tool)))
	if err != nil {
		t.Fatal(err)
	}
	root := strings.TrimSuffix(program, "/usr/bin/mkfs.erofs")
	libraries := filepath.Join(root, "usr/lib/x86_64-linux-gnu")
	checked := 0
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		file, err := elf.Open(path)
		if err != nil {
			return nil // not a program
		}
		defer file.Close()
		needed, err := file.ImportedLibraries()
		if err != nil {
			return err
		}
		checked++
		for _, name := range needed {
			// Character sets keep what they share among themselves.
			if !exists(filepath.Join(libraries, name)) && !exists(filepath.Join(filepath.Dir(path), name)) {
				t.Errorf("%s wants %s, which no package of the group tools brings", strings.TrimPrefix(path, root), name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if checked < 20 {
		t.Errorf("only %d programs and libraries were looked at in %s", checked, root)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// run calls a tool in an environment that would lead a tool of the machine
// astray.
func run(t *testing.T, variable string, args ...string) string {
	t.Helper()
	command := exec.Command(runfiles(t, variable)[0], args...)
	command.Env = append(os.Environ(), "LD_LIBRARY_PATH=/nonexistent", "LC_ALL=xx_XX.UTF-8", "TZ=Asia/Tokyo", "OPENSSL_CONF=/nonexistent")
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, output)
	}
	return string(output)
}

func TestToolsRun(t *testing.T) {
	for variable, test := range map[string]struct {
		args []string
		says string
	}{
		"MKFS_EROFS":  {[]string{"--version"}, "mkfs.erofs (erofs-utils)"},
		"VERITYSETUP": {[]string{"--version"}, "veritysetup"},
		"MTOOLS":      {[]string{"--version"}, "GNU mtools"},
		"DEPMOD":      {[]string{"--version"}, "kmod version"},
		"LDCONFIG":    {[]string{"--version"}, "ldconfig (Debian"},
	} {
		t.Run(variable, func(t *testing.T) {
			if got := run(t, variable, test.args...); !strings.Contains(got, test.says) {
				t.Errorf("says %q, not %q", got, test.says)
			}
		})
	}
}

// TestToolsWriteTheSameBytes makes a file system and its hash tree twice.
func TestToolsWriteTheSameBytes(t *testing.T) {
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "file"), []byte(strings.Repeat("content\n", 4096)), 0o644); err != nil {
		t.Fatal(err)
	}
	const zero = "00000000-0000-0000-0000-000000000000"
	build := func() string {
		dir := t.TempDir()
		fileSystem, hashes := filepath.Join(dir, "root"), filepath.Join(dir, "verity")
		run(t, "MKFS_EROFS", "-T0", "--all-root", "-U", zero, "-zzstd,3", fileSystem, source)
		out := run(t, "VERITYSETUP", "format", "--uuid", zero, "--salt", "-", fileSystem, hashes)
		_, rootHash, found := strings.Cut(out, "Root hash:")
		if !found {
			t.Fatalf("no root hash in %q", out)
		}
		run(t, "VERITYSETUP", "verify", fileSystem, hashes, strings.TrimSpace(strings.SplitN(strings.TrimSpace(rootHash), "\n", 2)[0]))
		data, err := os.ReadFile(hashes)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		return rootHash + hex.EncodeToString(sum[:])
	}
	if first, second := build(), build(); first != second {
		t.Errorf("%q, then %q", first, second)
	}
}
