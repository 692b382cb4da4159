// SPDX-License-Identifier: Apache-2.0

package componentset

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements/strictjson"
)

const digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// example is written by hand: the format is what it says, not what Encode does.
const example = `{
  "format": "constellation.components/v1",
  "kubernetes": "v1.37.2",
  "components": [
    {
      "name": "kubelet",
      "kind": "program",
      "version": "v1.37.2",
      "digest": "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
      "size": 172810366,
      "image": "kubernetes",
      "path": "usr/bin/kubernetes",
      "install_path": "bin/kubelet"
    },
    {
      "name": "kubernetes",
      "kind": "image",
      "version": "v1.37.2",
      "digest": "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
      "size": 1000
    }
  ]
}
`

func parseExample(t testing.TB) *Set {
	t.Helper()
	s, err := Parse([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestParse(t *testing.T) {
	s := parseExample(t)
	want := &Set{Format: Format, Kubernetes: "v1.37.2", Components: []Component{
		{
			Name: "kubelet", Kind: KindProgram, Version: "v1.37.2", Digest: "sha256:" + strings.Repeat("b", 64), Size: 172810366,
			Image: "kubernetes", Path: "usr/bin/kubernetes", InstallPath: "bin/kubelet",
		},
		{Name: "kubernetes", Kind: KindImage, Version: "v1.37.2", Digest: digestA, Size: 1000},
	}}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(example, string(s.Encode())); diff != "" {
		t.Error(diff)
	}
	// What sha256sum says of the file.
	if want := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(example))); s.Digest() != want {
		t.Errorf("digest %s, want %s", s.Digest(), want)
	}
}

func TestNew(t *testing.T) {
	s := parseExample(t)
	reversed := []Component{s.Components[1], s.Components[0]}
	got, err := New("v1.37.2", reversed)
	if err != nil || got.Digest() != s.Digest() {
		t.Errorf("the order of components matters: %v", err)
	}
	if reversed[0].Name != "kubernetes" {
		t.Error("the caller's components were moved")
	}
}

func TestFind(t *testing.T) {
	s := parseExample(t)
	if c, ok := s.Image("kubernetes"); !ok || c.Digest != digestA {
		t.Errorf("image: %v, %v", c, ok)
	}
	if _, ok := s.Image("kubelet"); ok {
		t.Error("a program was found as an image")
	}
	if c, ok := s.Program("kubelet"); !ok || c.InstallPath != "bin/kubelet" {
		t.Errorf("program: %v, %v", c, ok)
	}
	if diff := cmp.Diff(map[string]string{"kubernetes": "constellation.local/kubernetes@" + digestA}, s.References()); diff != "" {
		t.Error(diff)
	}
	if got := s.Components[1].InstalledReference(); got != "constellation.local/kubernetes:installed" {
		t.Errorf("installed reference %q", got)
	}
}

func TestParseRefuses(t *testing.T) {
	replace := func(old, with string) string {
		if !strings.Contains(example, old) {
			t.Fatalf("%q is not in the example", old)
		}
		return strings.Replace(example, old, with, 1)
	}
	for name, tc := range map[string]struct {
		text string
		want error
	}{
		"nothing":                {"", strictjson.ErrTruncated},
		"cut off":                {example[:len(example)-10], strictjson.ErrTruncated},
		"too large":              {strings.Repeat(" ", MaxEncoding+1), ErrTooLarge},
		"trailing":               {example + "{}", strictjson.ErrTrailing},
		"unknown field":          {replace(`"size": 1000`, `"size": 1000, "url": "x"`), strictjson.ErrUnknown},
		"misspelled field":       {replace(`"digest": "sha256:a`, `"Digest": "sha256:a`), strictjson.ErrSpelling},
		"field twice":            {replace(`"size": 1000`, `"size": 1000, "size": 1000`), strictjson.ErrTwice},
		"other format":           {replace("/v1\"", "/v2\""), ErrFormat},
		"no version":             {replace(`"kubernetes": "v1.37.2"`, `"kubernetes": ""`), ErrVersion},
		"version without v":      {replace(`"kubernetes": "v1.37.2"`, `"kubernetes": "1.37.2"`), ErrVersion},
		"no components":          {`{"format": "constellation.components/v1", "kubernetes": "v1.37.2", "components": []}`, ErrEmpty},
		"another indentation":    {replace("  \"format\"", "\t\"format\""), ErrCanonical},
		"no line feed":           {strings.TrimSuffix(example, "\n"), ErrCanonical},
		"an empty field":         {replace(`"size": 1000`, `"size": 1000, "image": ""`), ErrCanonical},
		"an escaped letter":      {replace(`"kubelet"`, `"\u006bubelet"`), ErrCanonical},
		"not in order":           {replace(`"name": "kubelet"`, `"name": "zzz"`), ErrOrder},
		"a name twice":           {replace(`"name": "kubelet"`, `"name": "kubernetes"`), ErrOrder},
		"empty name":             {replace(`"name": "kubelet"`, `"name": ""`), ErrName},
		"upper-case name":        {replace(`"name": "kubelet"`, `"name": "Kubelet"`), ErrName},
		"path as name":           {replace(`"name": "kubelet"`, `"name": "../kubelet"`), ErrName},
		"long name":              {replace(`"name": "kubelet"`, `"name": "`+strings.Repeat("a", MaxText+1)+`"`), ErrName},
		"empty version":          {replace(`"version": "v1.37.2"`, `"version": ""`), ErrVersion},
		"version to be escaped":  {replace(`"version": "v1.37.2"`, `"version": "\u001b[31m"`), ErrVersion},
		"empty digest":           {replace(digestA, ""), ErrDigest},
		"empty hash":             {replace(digestA, "sha256:"), ErrDigest},
		"upper-case digest":      {replace(digestA, "sha256:"+strings.Repeat("A", 64)), ErrDigest},
		"short digest":           {replace(digestA, digestA[:70]), ErrDigest},
		"another algorithm":      {replace(digestA, "sha512:"+strings.Repeat("a", 64)), ErrDigest},
		"digest and a line feed": {replace(digestA, digestA+`\n`), ErrDigest},
		"no size":                {replace(`"size": 1000`, `"size": 0`), ErrSize},
		"negative size":          {replace(`"size": 1000`, `"size": -1`), ErrSize},
		"huge manifest":          {replace(`"size": 1000`, `"size": 1048577`), ErrSize},
		"huge program":           {replace(`"size": 172810366`, `"size": 2147483649`), ErrSize},
		"unknown kind":           {replace(`"kind": "program"`, `"kind": "script"`), ErrKind},
		"image with a path":      {replace(`"size": 1000`, `"size": 1000, "path": "x"`), ErrSurplus},
		"program of no image":    {replace(`"image": "kubernetes"`, `"image": "other"`), ErrImage},
		"program of itself":      {replace(`"image": "kubernetes"`, `"image": "kubelet"`), ErrImage},
		"absolute path":          {replace(`"usr/bin/kubernetes"`, `"/usr/bin/kubernetes"`), ErrPath},
		"path that leaves":       {replace(`"bin/kubelet"`, `"../kubelet"`), ErrPath},
		"path with a detour":     {replace(`"bin/kubelet"`, `"bin/../kubelet"`), ErrPath},
		"the root as path":       {replace(`"bin/kubelet"`, `"."`), ErrPath},
		"empty path":             {replace(`"usr/bin/kubernetes"`, `""`), ErrPath},
		"path with a zero byte":  {replace(`"bin/kubelet"`, `"bin/kubelet\u0000"`), ErrPath},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(tc.text)); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestConflicts(t *testing.T) {
	s := parseExample(t)
	for name, path := range map[string]string{"the same path": "bin/kubelet", "below a program": "bin/kubelet/x", "above a program": "bin"} {
		second := s.Components[0]
		second.Name, second.InstallPath = "second", path
		if _, err := New(s.Kubernetes, append([]Component{second}, s.Components...)); !errors.Is(err, ErrConflict) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	many := make([]Component, 0, MaxComponents+1)
	for i := range MaxComponents + 1 {
		many = append(many, Component{Name: fmt.Sprintf("c%03d", i), Kind: KindImage, Version: "v1", Digest: digestA, Size: 1})
	}
	if _, err := New(s.Kubernetes, many); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too many: got %v", err)
	}
	if _, err := New(s.Kubernetes, many[:MaxComponents]); err != nil {
		t.Errorf("as many as there may be: %v", err)
	}
}

// FuzzParse: what is accepted has one encoding, and it is sound.
func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte(strings.Replace(example, "kubelet", "kubectl", 1)))
	f.Add([]byte(`{"format":"constellation.components/v1","kubernetes":"v1.0.0","components":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(data)
		if err != nil {
			return
		}
		if string(s.Encode()) != string(data) {
			t.Fatalf("accepted %q, which is not its encoding %q", data, s.Encode())
		}
		for _, c := range s.Components {
			if !IsDigest(c.Digest) || c.Size < 1 || c.Size > MaxFile || strings.Contains(c.InstallPath, "..") || strings.HasPrefix(c.InstallPath, "/") {
				t.Fatalf("accepted %+v", c)
			}
		}
	})
}
