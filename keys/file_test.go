// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestCreateAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.json")
	r := Generate()
	if err := r.Create(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	read, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if !read.secrets[1].Equal(r.secrets[1]) || !bytes.Equal(read.Salt(), r.Salt()) {
		t.Error("what was read is not what was written")
	}
	before, _ := os.ReadFile(path)
	wantClass(t, Generate().Create(path), ClassExists)
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the file was changed")
	}
}

// TestFullDisk: the limit of a file's size stands in for the disk's.
func TestFullDisk(t *testing.T) {
	path := created(t)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 10, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	r := Generate()
	created, replaced := r.Create(path+".new"), r.Replace(path)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(created, syscall.EFBIG) || !errors.Is(replaced, syscall.EFBIG) {
		t.Errorf("got %v and %v", created, replaced)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the old file was changed")
	}
	if err := r.Create(path + ".new"); err != nil {
		t.Errorf("once there is room: %v", err)
	}
}

func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.json")
	r := Generate()
	if err := r.Create(path); err != nil {
		t.Fatal(err)
	}
	r.Rotate()
	if err := r.Replace(path); err != nil {
		t.Fatal(err)
	}
	read, err := Load(path)
	if err != nil || len(read.Versions()) != 2 {
		t.Errorf("versions %v, %v", read.Versions(), err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	if err := r.Replace(filepath.Join(path, "x")); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("got %v", err)
	}
}

func TestLoadRefuses(t *testing.T) {
	good, err := Generate().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	write := func(mode fs.FileMode, data []byte) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			if err := errors.Join(os.WriteFile(path, data, 0o600), os.Chmod(path, mode)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tc := range []struct {
		name string
		make func(*testing.T, string)
		want Class
		says string
	}{
		{"others can read it", write(0o644, good), ClassPermissions, "mode 0644"},
		{"the group can read it", write(0o640, good), ClassPermissions, "mode 0640"},
		{"others can write it", write(0o602, good), ClassPermissions, "mode 0602"},
		{"a folder", func(t *testing.T, path string) { os.Mkdir(path, 0o700) }, ClassPermissions, "not a regular file"},
		{"a pipe", func(t *testing.T, path string) { syscall.Mkfifo(path, 0o600) }, ClassPermissions, "not a regular file"},
		{"empty", write(0o600, nil), ClassMalformed, "0 bytes"},
		{"too large", write(0o600, make([]byte, MaxFileSize+1)), ClassMalformed, "16385 bytes"},
		{"cut", write(0o600, good[:len(good)/2]), ClassMalformed, "not JSON"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "master.json")
			tc.make(t, path)
			_, err := Load(path)
			wantClass(t, err, tc.want)
			if err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%q does not say %q", err, tc.says)
			}
		})
	}
	if _, err := Load(filepath.Join(t.TempDir(), "x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// fileWith makes the text of a file with these secrets.
func fileWith(salt []byte, rest string) string {
	return `{"format":"` + FileFormat + `","salt":"` + base64.StdEncoding.EncodeToString(salt) + `",` + rest + `}`
}

func TestParseRefuses(t *testing.T) {
	encode := base64.StdEncoding.EncodeToString
	salt, random := bytes.Repeat([]byte("salt"), 8), RandomSecret(33).Copy()
	secret, short, long := encode(random[:32]), encode(random[:31]), encode(random)
	one := `"secrets":[{"version":1,"secret":"` + secret + `"}]`
	if _, err := Parse([]byte(fileWith(salt, one))); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ name, text, says string }{
		{"nothing", "", "not JSON"},
		{"not JSON", random2(random), "not JSON"},
		{"another format", strings.Replace(fileWith(salt, one), "/v1", "/v2", 1), "format is not"},
		{"no format", `{"salt":"` + encode(salt) + `",` + one + `}`, "format is not"},
		{"an unknown field", fileWith(salt, `"x":1,`+one), "not JSON with the fields"},
		{"a short salt", fileWith(salt[:31], one), "salt has 31 bytes"},
		{"no secrets", fileWith(salt, `"secrets":[]`), "0 secrets"},
		{"too many", fileWith(salt, `"secrets":[`+strings.Repeat(`{},`, maxVersions)+`{}]`), "65 secrets"},
		{"a short secret", fileWith(salt, strings.Replace(one, secret, short, 1)), "31 bytes, not 32"},
		{"a long secret", fileWith(salt, strings.Replace(one, secret, long, 1)), "33 bytes, not 32"},
		{"zeros", fileWith(salt, strings.Replace(one, secret, encode(make([]byte, 32)), 1)), "not a secret"},
		{"version 0", fileWith(salt, strings.Replace(one, `:1`, `:0`, 1)), "version 0 after 0"},
		{"a version twice", fileWith(salt, `"secrets":[{"version":1,"secret":"`+secret+`"},{"version":1,"secret":"`+secret+`"}]`), "version 1 after 1"},
		{"no identity", fileWith(salt, strings.Replace(one, `:1`, `:2`, 1)), "measurement secret is there if"},
		{"two identities", fileWith(salt, one+`,"measurement":"`+secret+`"`), "measurement secret is there if"},
		{"a short identity", fileWith(salt, strings.Replace(one, `:1`, `:2`, 1)+`,"measurement":"`+short+`"`), "measurement secret: malformed: 31 bytes"},
		{"something after it", fileWith(salt, one) + "{}", "something follows"},
		{"too large", fileWith(salt, one) + strings.Repeat(" ", MaxFileSize), "more than"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse([]byte(tc.text))
			wantClass(t, err, ClassMalformed)
			if err == nil {
				return
			}
			if !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%q does not say %q", err, tc.says)
			}
			if strings.Contains(err.Error(), secret[:8]) {
				t.Errorf("%q quotes the secret", err)
			}
		})
	}
}

// random2 is a secret where a person pasted it, without a format around it.
func random2(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func FuzzParse(f *testing.F) {
	good, err := Generate().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(fileWith(make([]byte, 32), `"secrets":[{"version":2,"secret":""}],"measurement":"AA=="`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Parse(data)
		if err != nil {
			if ClassOf(err) != ClassMalformed {
				t.Fatal(err)
			}
			return
		}
		out, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(out)
		if err != nil {
			t.Fatal(err)
		}
		a, errA := r.ClusterID()
		b, errB := again.ClusterID()
		if a != b || errA != nil || errB != nil {
			t.Fatalf("%v %v, %v %v", a, errA, b, errB)
		}
	})
}
