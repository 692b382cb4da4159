// SPDX-License-Identifier: Apache-2.0

package bundle_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	godigest "github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/constellation-os/constellation/kubernetes/bundle"
	"github.com/constellation-os/constellation/kubernetes/bundle/bundletest"
	"github.com/constellation-os/constellation/kubernetes/componentset"
	"github.com/constellation-os/constellation/kubernetes/oci"
)

// made is a small bundle and its folder.
func made(t *testing.T, change func(*bundle.Contents)) (dir string, b *bundle.Bundle) {
	t.Helper()
	c := bundletest.Contents(t)
	if change != nil {
		change(&c)
	}
	dir = filepath.Join(t.TempDir(), "bundle")
	b, err := bundle.Create(dir, c)
	if err != nil {
		t.Fatal(err)
	}
	return dir, b
}

// blob is where a bundle has content.
func blob(dir, digest string) string { return filepath.Join(dir, "blobs", "sha256", oci.Hex(digest)) }

// layers are the digests of an image's layers.
func layers(t *testing.T, dir string, c componentset.Component) []string {
	t.Helper()
	data, err := os.ReadFile(blob(dir, c.Digest))
	if err != nil {
		t.Fatal(err)
	}
	m, err := oci.ParseManifest(data)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range m.Layers {
		out = append(out, string(l.Digest))
	}
	return out
}

// TestCreate: a bundle is an image layout that says of itself what is in it, and
// making it twice makes it the same.
func TestCreate(t *testing.T) {
	dir, b := made(t, nil)
	again, _ := made(t, nil)
	var names []string
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if other, err := os.ReadFile(filepath.Join(again, name)); err != nil || !bytes.Equal(data, other) {
			t.Errorf("%s is not the same twice: %v", name, err)
		}
		if sum := fmt.Sprintf("%x", sha256.Sum256(data)); strings.HasPrefix(name, "blobs") && sum != filepath.Base(name) {
			t.Errorf("%s has the digest %s", name, sum)
		}
		names = append(names, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// Two images, three layers, and three files beside them.
	if len(names) != 2*2+3+3 {
		t.Errorf("files %v", names)
	}
	if err := b.Verify(t.Context(), nil); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"kubelet", "kubeadm"} {
		c, _ := b.Set().Program(name)
		if want := fmt.Sprintf("sha256:%x", sha256.Sum256(bundletest.Kubernetes)); c.Digest != want || c.Size != int64(len(bundletest.Kubernetes)) || c.Version != "v1.37.2" {
			t.Errorf("%s: %+v", name, c)
		}
	}
	kubernetes, _ := b.Set().Image("kubernetes")
	pause, _ := b.Set().Image("pause")
	if a, b := layers(t, dir, kubernetes), layers(t, dir, pause); a[0] != b[0] || a[1] == b[1] {
		t.Errorf("layers %v and %v: the first is shared, the second is not", a, b)
	}
}

// TestConfig: what a container runtime reads.
func TestConfig(t *testing.T) {
	dir, b := made(t, nil)
	c, _ := b.Set().Image("pause")
	data, err := os.ReadFile(blob(dir, c.Digest))
	if err != nil {
		t.Fatal(err)
	}
	m, err := oci.ParseManifest(data)
	if err != nil {
		t.Fatal(err)
	}
	if data, err = os.ReadFile(blob(dir, string(m.Config.Digest))); err != nil {
		t.Fatal(err)
	}
	var config v1.Image
	if err := json.Unmarshal(data, &config); err != nil {
		t.Fatal(err)
	}
	if config.Architecture != "amd64" || config.OS != "linux" || config.Created.Unix() != 0 || len(config.RootFS.DiffIDs) != 2 ||
		config.Config.User != "65535:65535" || !slices.Equal(config.Config.Entrypoint, []string{"/pause"}) {
		t.Errorf("configuration %+v", config)
	}
}

func TestCreateRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*bundle.Contents)
		says   string
	}{
		"a program of no image": {func(c *bundle.Contents) { c.Programs[0].Image = "other" }, "program kubelet: no such image"},
		"no such program":       {func(c *bundle.Contents) { c.Programs[0].Path = "usr/bin/other" }, "usr/bin/other: the image has no such file"},
		"a link as program":     {func(c *bundle.Contents) { c.Programs[0].Path = "usr/bin/kubelet" }, "usr/bin/kubelet: not a regular file"},
		"not a layer":           {func(c *bundle.Contents) { c.Images[0].Layers[0] = os.DevNull }, "image kubernetes: "},
		"no version":            {func(c *bundle.Contents) { c.Kubernetes = "latest" }, "not a version"},
	} {
		t.Run(name, func(t *testing.T) {
			c := bundletest.Contents(t)
			tc.change(&c)
			if _, err := bundle.Create(filepath.Join(t.TempDir(), "bundle"), c); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %q", err, tc.says)
			}
		})
	}
}

// faults are all that an error reports.
func faults(err error) []*bundle.Fault {
	var out []*bundle.Fault
	var fault *bundle.Fault
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			if errors.As(e, &fault) {
				out = append(out, fault)
			}
		}
	}
	return out
}

// openAndVerify is what the command does.
func openAndVerify(dir string) error {
	b, err := bundle.Open(dir)
	if err != nil {
		return err
	}
	return b.Verify(context.Background(), nil)
}

// TestFaults: whatever is wrong with content is found, and said of the right component.
func TestFaults(t *testing.T) {
	change := func(path string, f func([]byte) []byte) error {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, f(data), 0o600)
	}
	flip := func(data []byte) []byte { data[len(data)/2] ^= 1; return data }
	for name, tc := range map[string]struct {
		// damage returns the digest of what it damaged.
		damage    func(dir string, kubernetes, pause componentset.Component) (string, error)
		component string
		want      error
	}{
		"one flipped byte in a layer": {func(dir string, c, _ componentset.Component) (string, error) {
			d := layers(t, dir, c)[1]
			return d, change(blob(dir, d), flip)
		}, "kubernetes", bundle.ErrContent},
		"one flipped byte in a manifest": {func(dir string, c, _ componentset.Component) (string, error) {
			return c.Digest, change(blob(dir, c.Digest), flip)
		}, "kubernetes", bundle.ErrContent},
		"a layer that both have": {func(dir string, c, _ componentset.Component) (string, error) {
			d := layers(t, dir, c)[0]
			return d, change(blob(dir, d), flip)
		}, "kubernetes", bundle.ErrContent},
		"a missing manifest": {func(dir string, _, c componentset.Component) (string, error) {
			return c.Digest, os.Remove(blob(dir, c.Digest))
		}, "pause", bundle.ErrMissing},
		"a missing layer": {func(dir string, _, c componentset.Component) (string, error) {
			d := layers(t, dir, c)[1]
			return d, os.Remove(blob(dir, d))
		}, "pause", bundle.ErrMissing},
		"a truncated layer": {func(dir string, c, _ componentset.Component) (string, error) {
			d := layers(t, dir, c)[1]
			return d, os.Truncate(blob(dir, d), 100)
		}, "kubernetes", bundle.ErrSize},
		"something behind a layer": {func(dir string, c, _ componentset.Component) (string, error) {
			d := layers(t, dir, c)[1]
			return d, change(blob(dir, d), func(data []byte) []byte { return append(data, 0) })
		}, "kubernetes", bundle.ErrSize},
		"another image's manifest": {func(dir string, c, other componentset.Component) (string, error) {
			data, err := os.ReadFile(blob(dir, other.Digest))
			if err != nil {
				return "", err
			}
			padded := append(data, bytes.Repeat([]byte(" "), int(c.Size)-len(data))...)
			return c.Digest, os.WriteFile(blob(dir, c.Digest), padded, 0o600)
		}, "kubernetes", bundle.ErrContent},
		"a folder in a layer's place": {func(dir string, c, _ componentset.Component) (string, error) {
			d := layers(t, dir, c)[1]
			return d, errors.Join(os.Remove(blob(dir, d)), os.Mkdir(blob(dir, d), 0o755))
		}, "kubernetes", oci.ErrNotAFile},
		"an image that the index lacks": {func(dir string, c, _ componentset.Component) (string, error) {
			return c.Digest, change(filepath.Join(dir, "index.json"), func(data []byte) []byte {
				return bytes.Replace(data, []byte(c.Digest), []byte("sha256:"+strings.Repeat("0", 64)), 1)
			})
		}, "kubernetes", bundle.ErrUnlisted},
	} {
		t.Run(name, func(t *testing.T) {
			dir, b := made(t, nil)
			kubernetes, _ := b.Set().Image("kubernetes")
			pause, _ := b.Set().Image("pause")
			digest, err := tc.damage(dir, kubernetes, pause)
			if err != nil {
				t.Fatal(err)
			}
			err = openAndVerify(dir)
			found := faults(err)
			if len(found) != 1 || found[0].Component != tc.component || found[0].Digest != digest || !errors.Is(found[0], tc.want) {
				t.Errorf("got %v; want %s: %s: %v", err, tc.component, digest, tc.want)
			}
		})
	}
}

// TestAllFaults: one report has all of them.
func TestAllFaults(t *testing.T) {
	dir, b := made(t, nil)
	for _, c := range b.Set().Images() {
		path := blob(dir, layers(t, dir, c)[1])
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, info.Size()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if found := faults(openAndVerify(dir)); len(found) != 2 || found[0].Component != "kubernetes" || found[1].Component != "pause" {
		t.Errorf("got %v", found)
	}
}

// TestLayers: a layer that reaches out of its root is reported, however right its digest is.
func TestLayers(t *testing.T) {
	for name, tc := range map[string]struct {
		entry bundletest.Entry
		want  error
	}{
		"a path above the root": {bundletest.File("../../etc/cron.d/x", []byte("x")), oci.ErrTraversal},
		"an absolute path":      {bundletest.File("/etc/cron.d/x", []byte("x")), oci.ErrTraversal},
		"a whiteout":            {bundletest.File("usr/.wh.lib", nil), oci.ErrWhiteout},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := made(t, func(c *bundle.Contents) {
				c.Images[1].Layers[1] = bundletest.Layer(t, bundletest.File("pause", []byte("pause")), tc.entry)
			})
			found := faults(openAndVerify(dir))
			if len(found) != 1 || found[0].Component != "pause" || !errors.Is(found[0], tc.want) {
				t.Errorf("got %v, want %v", found, tc.want)
			}
		})
	}
}

// TestConfigOfOtherLayers: a configuration that names other layers than the manifest, as
// a container runtime would find while it unpacks.
func TestConfigOfOtherLayers(t *testing.T) {
	for name, change := range map[string]func(*v1.Image){
		"another layer": func(c *v1.Image) { c.RootFS.DiffIDs[1] = c.RootFS.DiffIDs[0] },
		"too few":       func(c *v1.Image) { c.RootFS.DiffIDs = c.RootFS.DiffIDs[:1] },
	} {
		t.Run(name, func(t *testing.T) {
			dir, b := made(t, nil)
			pause, _ := b.Set().Image("pause")
			replace(t, dir, b, pause, change)
			found := faults(openAndVerify(dir))
			if len(found) != 1 || found[0].Component != "pause" || !errors.Is(found[0], bundle.ErrContent) {
				t.Errorf("got %v", found)
			}
		})
	}
}

// replace gives an image another configuration, with a manifest, an index and a set to match.
func replace(t *testing.T, dir string, b *bundle.Bundle, c componentset.Component, change func(*v1.Image)) {
	t.Helper()
	read := func(digest string, into any) {
		data, err := os.ReadFile(blob(dir, digest))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatal(err)
		}
	}
	write := func(v any) (digest string, size int64) {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		digest = oci.Digest(data)
		if err := os.WriteFile(blob(dir, digest), data, 0o600); err != nil {
			t.Fatal(err)
		}
		return digest, int64(len(data))
	}
	var manifest v1.Manifest
	var config v1.Image
	read(c.Digest, &manifest)
	read(string(manifest.Config.Digest), &config)
	change(&config)
	digest, size := write(config)
	manifest.Config.Digest, manifest.Config.Size = godigest.Digest(digest), size
	digest, size = write(manifest)
	components := slices.Clone(b.Set().Components)
	for i := range components {
		if components[i].Name == c.Name {
			components[i].Digest, components[i].Size = digest, size
		}
	}
	set, err := componentset.New(b.Set().Kubernetes, components)
	if err != nil {
		t.Fatal(err)
	}
	index, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{bundle.SetFile: set.Encode(), "index.json": bytes.ReplaceAll(index, []byte(c.Digest), []byte(digest))} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWrongProgram: the set names a program that is another one in the image.
func TestWrongProgram(t *testing.T) {
	dir, b := made(t, nil)
	c, _ := b.Set().Program("kubelet")
	file := filepath.Join(dir, bundle.SetFile)
	write := func(old, with string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(b.Set().Encode()), old, with)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	other := "sha256:" + strings.Repeat("0", 64)
	write(c.Digest, other)
	found := faults(openAndVerify(dir))
	if len(found) != 2 || found[0].Component != "kubeadm" || found[1].Component != "kubelet" || found[1].Digest != other || !errors.Is(found[1], bundle.ErrContent) {
		t.Errorf("another digest: %v", found)
	}
	write(fmt.Sprint(c.Size), fmt.Sprint(c.Size-1))
	if found := faults(openAndVerify(dir)); len(found) != 2 || !errors.Is(found[0], bundle.ErrSize) {
		t.Errorf("another size: %v", found)
	}
	write("usr/bin/kubernetes", "usr/bin/kubelet") // a link
	if found := faults(openAndVerify(dir)); len(found) != 2 || !errors.Is(found[0], oci.ErrNotAFile) {
		t.Errorf("a link: %v", found)
	}
}

func TestNotABundle(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"no folder": func(dir string) error { return os.RemoveAll(dir) },
		"no layout": func(dir string) error { return os.Remove(filepath.Join(dir, "oci-layout")) },
		"another layout": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"2.0.0"}`), 0o600)
		},
		"no index":         func(dir string) error { return os.Remove(filepath.Join(dir, "index.json")) },
		"a broken index":   func(dir string) error { return os.WriteFile(filepath.Join(dir, "index.json"), []byte(`{`), 0o600) },
		"no component set": func(dir string) error { return os.Remove(filepath.Join(dir, bundle.SetFile)) },
		"a huge index":     func(dir string) error { return os.Truncate(filepath.Join(dir, "index.json"), 2<<20) },
		"a huge set":       func(dir string) error { return os.Truncate(filepath.Join(dir, bundle.SetFile), 2<<20) },
		"a folder as index": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "index.json")), os.Mkdir(filepath.Join(dir, "index.json"), 0o755))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := made(t, nil)
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := bundle.Open(dir); !errors.Is(err, bundle.ErrNotABundle) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestProgress counts all bytes once, and ends when asked to.
func TestProgress(t *testing.T) {
	_, b := made(t, nil)
	var last, total int64
	err := b.Verify(t.Context(), func(done, n int64, _ string) {
		if done < last || done > n {
			t.Errorf("%d of %d after %d", done, n, last)
		}
		last, total = done, n
	})
	if err != nil || last != total || total != b.Size() {
		t.Errorf("ended at %d of %d, want %d: %v", last, total, b.Size(), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Verify(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

// TestPins: they are what a bundle has of the same images.
func TestPins(t *testing.T) {
	contents := bundletest.Contents(t)
	pins, err := bundle.Pins(contents.Images[1:])
	if err != nil {
		t.Fatal(err)
	}
	_, b := made(t, func(c *bundle.Contents) { *c = contents })
	if pause, _ := b.Set().Image("pause"); len(pins) != 1 || pins["pause"] != pause.Digest {
		t.Errorf("pinned %v, and the bundle has %v", pins, pause)
	}
	contents.Images[1].User = "0:0"
	changed, err := bundle.Pins(contents.Images[1:])
	if err != nil || changed.Check(b.Set()) == nil {
		t.Errorf("another image has the same digest: %v, %v", changed, err)
	}
}
