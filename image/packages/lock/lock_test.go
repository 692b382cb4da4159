// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func sample() *Lock {
	return &Lock{
		Version:  Version,
		Archives: []Archive{{Name: "debian", Suite: "trixie", ReleaseDate: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}},
		Packages: []Package{
			{
				Name: "b", Version: "1:2-3+b1", Architecture: "amd64", SHA256: strings.Repeat("ab", 32), Size: 2048, InstalledSize: 4096,
				Archive: "debian", Path: "pool/main/b/b_2-3+b1_amd64.deb", Source: "b", SourceVersion: "1:2-3", Licence: "MIT", Groups: []string{"tools", "root"},
			},
			{Name: "a", Version: "1", Architecture: "all", SHA256: strings.Repeat("01", 32), Size: 1024, Archive: "debian", Path: "pool/main/a/a_1_all.deb", Groups: []string{"root"}},
		},
	}
}

func TestWriteAndRead(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock.json")
	want := sample()
	if err := want.WriteFile(name); err != nil {
		t.Fatal(err)
	}
	got, err := ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got.Packages[0].Name != "a" || !got.Packages[1].In(Root) || !got.Packages[1].In(Tools) || got.Packages[1].In(Boot) {
		t.Error("packages or groups are not in order")
	}
	left, err := os.ReadDir(filepath.Dir(name))
	if err != nil || len(left) != 1 {
		t.Errorf("files left beside the lock: %v, %v", left, err)
	}
}

func TestReadRefuses(t *testing.T) {
	good, err := sample().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ old, new, says string }{
		"other version":    {`"version": 1`, `"version": 2`, "version 2 is not supported"},
		"unknown field":    {`"suite"`, `"mirror": "x", "suite"`, "unknown field"},
		"duplicate":        {`"name": "a"`, `"name": "b"`, "occurs twice"},
		"no name":          {`"name": "a"`, `"name": ""`, "is empty"},
		"malformed hash":   {strings.Repeat("01", 32), "01", "malformed sha256"},
		"no size":          {`"size": 1024`, `"size": 0`, "size 0"},
		"path leads out":   {"pool/main/a/", "pool/../../", "not in the pool"},
		"no group":         {`"tools"`, ``, ""},
		"truncated":        {"\n  ]\n}", "", "unexpected EOF"},
		"text after it":    {"\n  ]\n}", "\n  ]\n}{}", "text after the end"},
		"not JSON":         {"{", "<", "invalid character"},
		"package of group": {"\"groups\": [\n        \"root\"\n      ]", `"groups": []`, "belongs to no group"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(string(good), test.old, test.new, 1)
			if text == string(good) {
				t.Fatal("the case changes nothing")
			}
			_, err := Read(strings.NewReader(text))
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v does not say %q", err, test.says)
			}
		})
	}
}

func TestReplaceFileKeepsTheOldOneOnFailure(t *testing.T) {
	dir := t.TempDir()
	// A folder cannot be replaced by a file.
	name := filepath.Join(dir, "lock.json")
	if err := os.MkdirAll(filepath.Join(name, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := ReplaceFile(name, []byte("new")); err == nil {
		t.Fatal("no error")
	}
	if _, err := os.Stat(filepath.Join(name, "full")); err != nil {
		t.Error(err)
	}
}

func TestDiff(t *testing.T) {
	before, after := sample(), sample()
	if diff := Diff(before, after); diff != "" {
		t.Errorf("equal locks differ: %s", diff)
	}
	after.Packages[0].Version, after.Packages[0].Size, after.Packages[0].Archive = "1:2-4", 3072, "debian-security"
	after.Packages[1].Name = "c"
	want := `  removed  a 1 (-1.0 KiB)
  changed  b 1:2-3+b1 -> 1:2-4 (+1.0 KiB); archive debian -> debian-security
  added    c 1 (+1.0 KiB) [root]
  total    2 packages, +1.0 KiB
`
	if diff := cmp.Diff(want, Diff(before, after)); diff != "" {
		t.Error(diff)
	}
	replaced := sample()
	replaced.Packages[0].SHA256 = strings.Repeat("cd", 32)
	if got := Diff(sample(), replaced); !strings.Contains(got, "same version, other content") {
		t.Errorf("replaced content is not shown: %q", got)
	}
}

// FuzzRead checks that whatever is accepted is canonical after one writing.
func FuzzRead(f *testing.F) {
	good, err := sample().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"packages":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		once, err := l.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Read(bytes.NewReader(once))
		if err != nil {
			t.Fatal(err)
		}
		twice, err := again.Marshal()
		if err != nil || !bytes.Equal(once, twice) {
			t.Errorf("not canonical: %v", err)
		}
	})
}
