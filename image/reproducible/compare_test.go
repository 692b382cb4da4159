// SPDX-License-Identifier: Apache-2.0

package reproducible

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	rootOne = `[
		{"path":"/etc/hosts","type":"file","mode":"0644","owner":"0:0","size":3,"sha256":"aa","origin":"base-files"},
		{"path":"/usr/bin/x","type":"file","mode":"0755","owner":"0:0","size":9,"sha256":"bb","origin":"x"}
	]`
	rootOtherContent = `[
		{"path":"/etc/hosts","type":"file","mode":"0644","owner":"0:0","size":3,"sha256":"aa","origin":"base-files"},
		{"path":"/usr/bin/x","type":"file","mode":"0755","owner":"0:0","size":9,"sha256":"cc","origin":"x"}
	]`
	rootOtherFile = `[
		{"path":"/etc/hosts","type":"file","mode":"0644","owner":"0:0","size":3,"sha256":"aa","origin":"base-files"},
		{"path":"/etc/motd","type":"link","mode":"0777","owner":"0:0","target":"x","origin":"y"},
		{"path":"/usr/bin/x","type":"file","mode":"0755","owner":"0:0","size":9,"sha256":"bb","origin":"x"}
	]`
)

func TestCompare(t *testing.T) {
	for name, test := range map[string]struct {
		a, b map[string]string
		want []Difference
	}{
		"identical": {
			a: map[string]string{"disk.raw": "disk", "sub/manifest.json": "{}"},
			b: map[string]string{"disk.raw": "disk", "sub/manifest.json": "{}"},
		},
		"bytes": {
			a:    map[string]string{"manifest.json": "abc"},
			b:    map[string]string{"manifest.json": "abd"},
			want: []Difference{{"manifest.json", "differs from byte 2 on"}},
		},
		"longer": {
			a:    map[string]string{"manifest.json": "abc"},
			b:    map[string]string{"manifest.json": "abcd"},
			want: []Difference{{"manifest.json", "differs from byte 3 on"}},
		},
		"missing": {
			a:    map[string]string{"manifest.json": "abc", "sbom.spdx.json": "x"},
			b:    map[string]string{"manifest.json": "abc"},
			want: []Difference{{"sbom.spdx.json", "only the first build has it"}},
		},
		"added": {
			a:    map[string]string{"manifest.json": "abc"},
			b:    map[string]string{"manifest.json": "abc", "sbom.spdx.json": "x"},
			want: []Difference{{"sbom.spdx.json", "only the second build has it"}},
		},
		"content of a file of the root, named before its consequences": {
			a: map[string]string{"disk.raw": "one", "manifest.json": "1", "root.files.json": rootOne},
			b: map[string]string{"disk.raw": "oze", "manifest.json": "2", "root.files.json": rootOtherContent},
			want: []Difference{
				{"root.files.json", "/usr/bin/x (from x) differs: file 0755 0:0 9 bytes bb in the first build, file 0755 0:0 9 bytes cc in the second"},
				{"disk.raw", "differs from byte 1 on"},
				{"manifest.json", "differs from byte 0 on"},
			},
		},
		"file that only the second root has": {
			a:    map[string]string{"root.files.json": rootOne},
			b:    map[string]string{"root.files.json": rootOtherFile},
			want: []Difference{{"root.files.json", "only the second build has /etc/motd (from y)"}},
		},
		"file that only the first root has": {
			a:    map[string]string{"root.files.json": rootOtherFile},
			b:    map[string]string{"root.files.json": rootOne},
			want: []Difference{{"root.files.json", "only the first build has /etc/motd (from y)"}},
		},
		"artifact that cannot be read": {
			a:    map[string]string{"root.files.json": rootOne},
			b:    map[string]string{"root.files.json": "[broken"},
			want: []Difference{{"root.files.json", "differs from byte 1 on"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Compare(write(t, test.a), write(t, test.b))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCompareRefusesEmptyBuild(t *testing.T) {
	if _, err := Compare(t.TempDir(), t.TempDir()); err == nil {
		t.Error("two builds without artifacts count as identical")
	}
}

func write(t *testing.T, files map[string]string) string {
	t.Helper()
	folder := t.TempDir()
	for name, content := range files {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}
