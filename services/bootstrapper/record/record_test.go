// SPDX-License-Identifier: Apache-2.0

package record

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/kubernetes/componentset"
	"github.com/constellation-os/constellation/services/provider"
)

func node(t *testing.T) *Node {
	t.Helper()
	set, err := componentset.New("v1.37.2", []componentset.Component{{Name: "pause", Kind: componentset.KindImage, Version: "1",
		Digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", Size: 1}})
	if err != nil {
		t.Fatal(err)
	}
	return &Node{
		Role: provider.ControlPlane, Name: "control-plane-1",
		Cluster: strings.Repeat("4a", 32), ClusterName: "constellation", Policy: []byte(`{}`),
		Endpoint: "api.example.org:6443", APIServerNames: []string{"192.0.2.1"}, PodNetwork: "10.244.0.0/16", ServiceNetwork: "10.96.0.0/12",
		Schedulable: true, Components: string(set.Encode()), Sources: []string{"https://registry.example.org"},
	}
}

func TestFile(t *testing.T) {
	f := File(filepath.Join(t.TempDir(), "constellation", "node.json"))
	if _, err := f.Load(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before there is one: %v", err)
	}
	n := node(t)
	if err := f.Save(n); err != nil {
		t.Fatal(err)
	}
	got, err := f.Load()
	if diff := cmp.Diff(n, got); err != nil || diff != "" {
		t.Errorf("%v, what was saved is read as (-want +got):\n%s", err, diff)
	}
	set, err := got.Set()
	if err != nil || string(set.Encode()) != n.Components {
		t.Errorf("the component set is %v, %v", set, err)
	}
	if info, err := os.Stat(string(f)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info, err)
	}
}

func TestWhatIsNoRecord(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Node)
		says   string
	}{
		"a role that is none":  {func(n *Node) { n.Role = "king" }, `role "king"`},
		"a name that is none":  {func(n *Node) { n.Name = "../node" }, `name "../node"`},
		"half a cluster":       {func(n *Node) { n.Cluster = "4a" }, "cluster: want 64 hexadecimal digits"},
		"no port":              {func(n *Node) { n.Endpoint = "api.example.org" }, "HOST:PORT"},
		"overlapping networks": {func(n *Node) { n.ServiceNetwork = "10.244.0.0/16" }, "overlap"},
		"no component set":     {func(n *Node) { n.Components = "{}" }, "component set"},
	} {
		t.Run(name, func(t *testing.T) {
			f := File(filepath.Join(t.TempDir(), "node.json"))
			n := node(t)
			tc.change(n)
			if err := f.Save(n); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("saved: %v", err)
			}
		})
	}
	f := File(filepath.Join(t.TempDir(), "node.json"))
	for text, says := range map[string]string{
		`{"format":"constellation-node/v2"}`:     `this program reads "constellation-node/v1"`,
		`{"master_secret":"x"}`:                  `unknown field "master_secret"`,
		"":                                       "ends early",
		`"` + strings.Repeat("x", maxFile) + `"`: "has more than",
	} {
		if err := os.WriteFile(string(f), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Load(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}
