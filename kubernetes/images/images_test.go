// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package images

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/constellation-os/constellation/kubernetes/bundle"
	"github.com/constellation-os/constellation/kubernetes/componentset"
	"github.com/constellation-os/constellation/kubernetes/install"
	"github.com/constellation-os/constellation/kubernetes/oci"
)

const (
	// aim is what a control-plane node downloads at most, limit what it may never exceed.
	aim, limit = 100 << 20, 250 << 20
)

// folder is the bundle's.
func folder(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("CONSTELLATION_BUNDLE")
	if dir == "" {
		t.Fatal("$CONSTELLATION_BUNDLE names no bundle: run this with Bazel, //kubernetes/images:images_test")
	}
	return dir
}

func open(t *testing.T) *bundle.Bundle {
	t.Helper()
	b, err := bundle.Open(folder(t))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func blob(t *testing.T, digest string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(folder(t), "blobs", "sha256", oci.Hex(digest)))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// image is one of the bundle's, unpacked as far as it is looked at.
type image struct {
	manifest *oci.Manifest
	config   v1.Image
	files    map[string]*tar.Header
	content  map[string][]byte // of files that unpack keeps
}

func unpack(t *testing.T, digest string, keep func(name string) bool) *image {
	t.Helper()
	m, err := oci.ParseManifest(blob(t, digest))
	if err != nil {
		t.Fatal(err)
	}
	out := &image{manifest: m, files: map[string]*tar.Header{}, content: map[string][]byte{}}
	if err := json.Unmarshal(blob(t, string(m.Config.Digest)), &out.config); err != nil {
		t.Fatal(err)
	}
	for _, layer := range m.Layers {
		archive, done, err := oci.Decompress(bytes.NewReader(blob(t, string(layer.Digest))), layer.MediaType)
		if err != nil {
			t.Fatal(err)
		}
		defer done()
		if err := oci.Walk(archive, func(name string, header *tar.Header, content io.Reader) error {
			out.files[name] = header
			if keep != nil && keep(name) {
				data, err := io.ReadAll(content)
				out.content[name] = data
				return err
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestBundle: every byte is what the set says, and there are not too many.
func TestBundle(t *testing.T) {
	b := open(t)
	if err := b.Verify(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if b.Size() > aim || b.Size() > limit {
		t.Errorf("a control-plane node downloads %d bytes: the aim is %d, the limit %d", b.Size(), aim, limit)
	}
	var images []string
	for _, c := range b.Set().Images() {
		images = append(images, c.Name)
	}
	if want := []string{"coredns", "etcd", "flannel", "joinservice", "keyservice", "kubernetes", "pause", "verificationservice"}; !slices.Equal(images, want) {
		t.Errorf("images %v, want %v", images, want)
	}
	t.Logf("%d bytes, %s", b.Size(), b.Set().Digest())
}

// TestServices: the digests that the node's image is built with are those of the bundle.
func TestServices(t *testing.T) {
	data, err := os.ReadFile(os.Getenv("CONSTELLATION_SERVICES"))
	if err != nil {
		t.Fatal(err)
	}
	pins, err := componentset.ParsePins(data)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := slices.Sorted(maps.Keys(pins)), []string{"joinservice", "keyservice", "verificationservice"}; !slices.Equal(got, want) {
		t.Errorf("digests of %v, want %v", got, want)
	}
	if err := pins.Check(open(t).Set()); err != nil {
		t.Error(err)
	}
}

// TestContents: an image starts a program that is there, which is all that it needs,
// and has nothing that runs what somebody hands to it.
func TestContents(t *testing.T) {
	shells := regexp.MustCompile(`^(.*sh|busybox|perl|python[0-9.]*)$`)
	for _, c := range open(t).Set().Images() {
		img := unpack(t, c.Digest, nil)
		entry := strings.TrimPrefix(img.config.Config.Entrypoint[0], "/")
		if f := img.files[entry]; f == nil || f.Typeflag != tar.TypeReg || f.Mode != 0o755 {
			t.Errorf("%s starts %s: %+v", c.Name, entry, f)
		}
		for name, f := range img.files {
			if f.Uid != 0 || f.Gid != 0 || f.ModTime.Unix() != 0 || f.Mode&0o6000 != 0 {
				t.Errorf("%s: %s belongs to %d:%d, is of %v, has mode %o", c.Name, name, f.Uid, f.Gid, f.ModTime, f.Mode)
			}
			if shells.MatchString(path.Base(name)) && f.Typeflag != tar.TypeDir {
				t.Errorf("%s has a shell: %s", c.Name, name)
			}
			if f.Typeflag == tar.TypeSymlink && !isThere(img.files, name, f.Linkname) {
				t.Errorf("%s: %s leads to %s, which is not there", c.Name, name, f.Linkname)
			}
		}
		if c.Name == "pause" && len(img.files) != 2 { // the root and the program
			t.Errorf("pause has %d files", len(img.files))
		}
	}
}

func isThere(files map[string]*tar.Header, link, target string) bool {
	if files[path.Join(path.Dir(link), target)] != nil {
		return true
	}
	// Through the link of the folder: lib is usr/lib.
	return files[path.Join("usr", path.Dir(link), target)] != nil
}

// TestCommands: the image kubernetes has each command by its name.
func TestCommands(t *testing.T) {
	c, _ := open(t).Set().Image("kubernetes")
	img := unpack(t, c.Digest, nil)
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubeadm", "kubectl", "kubelet"} {
		if f := img.files["usr/bin/"+name]; f == nil || f.Typeflag != tar.TypeSymlink || f.Linkname != "kubernetes" {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// TestPrograms installs the bundle as a node does, and runs what it has then.
func TestPrograms(t *testing.T) {
	b := open(t)
	server := httptest.NewServer(b.Handler())
	defer server.Close()
	root := t.TempDir()
	if _, err := install.Install(t.Context(), b.Set(), install.Options{Root: root, Sources: []string{server.URL}}); err != nil {
		t.Fatal(err)
	}
	version := b.Set().Kubernetes
	major, minor := strings.Split(version, ".")[0][1:], strings.Split(version, ".")[1]
	for _, tc := range []struct {
		name  string
		args  []string
		wants []string
	}{
		{"kubelet", []string{"--version"}, []string{"Kubernetes " + version}},
		{"kubeadm", []string{"version", "-o", "short"}, []string{version}},
		// Helm and others read these two and not the version.
		{"kubectl", []string{"version", "--client", "-o", "json"}, []string{`"gitVersion": "` + version + `"`, `"major": "` + major + `"`, `"minor": "` + minor + `"`}},
	} {
		out, err := exec.CommandContext(t.Context(), filepath.Join(root, "current", "bin", tc.name), tc.args...).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", tc.name, err, out)
		}
		for _, want := range tc.wants {
			if !strings.Contains(string(out), want) {
				t.Errorf("%s says\n%s\nand not %s", tc.name, out, want)
			}
		}
	}
	// kubeadm takes flags that are Kubernetes' other commands' for its own, unless they are kept from it.
	if out, err := exec.CommandContext(t.Context(), filepath.Join(root, "current", "bin", "kubeadm"), "init", "--help").CombinedOutput(); err != nil || strings.Contains(string(out), "--housekeeping-interval") || strings.Contains(string(out), "--version version[=true]") {
		t.Errorf("kubeadm has flags of others: %v\n%s", err, out)
	}
}

// TestImagePrograms runs the programs of the other images, by their own loader where they need one.
func TestImagePrograms(t *testing.T) {
	b := open(t)
	for _, tc := range []struct {
		image, program string
		args           []string
		want           string
	}{
		{"etcd", "usr/bin/etcd", []string{"--version"}, "etcd Version: "},
		{"coredns", "usr/bin/coredns", []string{"-plugins"}, "\nkubernetes\n"},
		{"flannel", "usr/bin/flannel", []string{"-net-conf", "missing"}, "reach the Kubernetes API"},
		{"flannel", "usr/sbin/nft", []string{"--version"}, "nftables v"},
		{"kubernetes", "usr/sbin/nft", []string{"--version"}, "nftables v"},
		{"keyservice", "usr/bin/keyservice", []string{"-config", "missing"}, "missing"},
		{"joinservice", "usr/bin/joinservice", []string{"-config", "missing"}, "missing"},
		{"verificationservice", "usr/bin/verificationservice", []string{"-device", "missing"}, "missing"},
	} {
		t.Run(tc.image+"/"+path.Base(tc.program), func(t *testing.T) {
			c, _ := b.Set().Image(tc.image)
			const libraries = "usr/lib/x86_64-linux-gnu"
			img := unpack(t, c.Digest, func(name string) bool { return name == tc.program || path.Dir(name) == libraries })
			dir := t.TempDir()
			for name, content := range img.content {
				at := filepath.Join(dir, filepath.Base(name))
				var err error
				if img.files[name].Typeflag == tar.TypeSymlink {
					err = os.Symlink(img.files[name].Linkname, at)
				} else {
					err = os.WriteFile(at, content, 0o700)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			command := append([]string{filepath.Join(dir, path.Base(tc.program))}, tc.args...)
			if loader := filepath.Join(dir, "ld-linux-x86-64.so.2"); strings.HasSuffix(tc.program, "nft") {
				command = append([]string{loader, "--library-path", dir}, command...)
			}
			out, _ := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput()
			if !strings.Contains("\n"+string(out), tc.want) {
				t.Errorf("%s says\n%s\nand not %q", tc.program, out, tc.want)
			}
		})
	}
}
