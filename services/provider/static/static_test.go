// SPDX-License-Identifier: Apache-2.0

package static

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/constellation-os/constellation/services/provider"
)

const hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

// id is a cluster's.
const id = "4a7b5f2f0e7f0d3c1b6f9a8e5d4c3b2a190807f6e5d4c3b2a19080706050403f"

const text = `{"format":"constellation-inventory/v1","endpoint":"api.example.org:6443","init_secret_sha256":"` + hash + `",
"cluster":{"id":"` + id + `","policy":{"version": 1}},"machines":[
{"name":"node-1","role":"control-plane","address":"192.0.2.1"},
{"name":"node-2","role":"worker","address":"2001:db8::2"}]}`

// on makes the provider of a machine with these addresses.
func on(t *testing.T, addresses ...string) *Provider {
	t.Helper()
	p, err := New([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	p.addresses = func() (out []netip.Addr, err error) {
		for _, a := range addresses {
			out = append(out, netip.MustParseAddr(a))
		}
		return out, nil
	}
	return p
}

func TestProvider(t *testing.T) {
	p := on(t, "127.0.0.1", "2001:db8::2")
	self, err := p.Self(t.Context())
	if err != nil || self.Name != "node-2" || self.Role != provider.Worker || self.InitSecretHash == nil || self.InitSecretHash[0] != 0x9f {
		t.Errorf("self is %+v, %v", self, err)
	}
	peers, err := p.Peers(t.Context())
	want := []provider.Peer{{Name: "node-1", Role: provider.ControlPlane, Address: netip.MustParseAddr("192.0.2.1")}}
	if diff := cmp.Diff(want, peers, cmpopts.EquateComparable(netip.Addr{})); err != nil || diff != "" {
		t.Errorf("%v, peers (-want +got):\n%s", err, diff)
	}
	if endpoint, err := p.Endpoint(t.Context()); err != nil || endpoint != "api.example.org:6443" {
		t.Errorf("endpoint is %s, %v", endpoint, err)
	}
	cluster, err := p.Cluster(t.Context())
	if err != nil || cluster == nil || hex.EncodeToString(cluster.ID[:]) != id || string(cluster.Policy) != `{"version": 1}` {
		t.Errorf("cluster is %+v, %v", cluster, err)
	}
}

// TestNoCluster: before there is one, the inventory names none.
func TestNoCluster(t *testing.T) {
	p, err := New([]byte(strings.Replace(text, `"cluster":{"id":"`+id+`","policy":{"version": 1}},`, "", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if cluster, err := p.Cluster(t.Context()); cluster != nil || err != nil {
		t.Errorf("cluster is %+v, %v", cluster, err)
	}
}

func TestAMachineThatIsNotListed(t *testing.T) {
	p := on(t, "192.0.2.9")
	if _, err := p.Self(t.Context()); !errors.Is(err, ErrNotListed) {
		t.Errorf("self: %v", err)
	}
	if _, err := p.Peers(t.Context()); !errors.Is(err, ErrNotListed) {
		t.Errorf("peers: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	for _, tc := range []struct{ name, old, new, refusal string }{
		{"another version", "/v1", "/v2", `this program reads "constellation-inventory/v1"`},
		{"an unknown field", `"endpoint"`, `"endpiont"`, `unknown field "endpiont"`},
		{"a name twice", "node-2", "node-1", "there twice"},
		{"an address twice", "2001:db8::2", "192.0.2.1", "there twice"},
		{"a bad name", "node-2", "Node", `name "Node"`},
		{"a bad role", `"worker"`, `"x"`, `role "x"`},
		{"no address", "192.0.2.1", "node", `address "node" is none`},
		{"a bad hash", hash, "00", "want 64 hexadecimal digits"},
		{"a bad endpoint", "api.example.org:6443", "api.example.org", "want HOST:PORT"},
		{"half an identity", id, id[:32], "cluster: id: want 64 hexadecimal digits"},
		{"no policy", `,"policy":{"version": 1}`, "", "cluster: policy: want a JSON object"},
		{"no machine", text[strings.Index(text, `{"name"`):strings.LastIndex(text, "]")], "", "lists no machine"},
		{"too much", text, strings.Repeat(" ", MaxSize+1), "at most 262144"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bad := strings.Replace(text, tc.old, tc.new, 1)
			if bad == text {
				t.Fatal("nothing was changed")
			}
			if _, err := New([]byte(bad)); err == nil || !strings.Contains(err.Error(), tc.refusal) {
				t.Errorf("got %v, want an error with %q", err, tc.refusal)
			}
		})
	}
}

func FuzzNew(f *testing.F) {
	f.Add([]byte(text))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := New(data)
		if err != nil {
			return
		}
		p.addresses = func() ([]netip.Addr, error) { return []netip.Addr{p.machines[0].Address}, nil }
		if self, err := p.Self(t.Context()); err != nil || provider.CheckName(self.Name) != nil {
			t.Fatalf("self is %+v, %v", self, err)
		}
	})
}

// TestPage: the inventory that docs/providers.md shows is one.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../../docs/providers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "## static")
	_, rest, _ = strings.Cut(rest, "```json\n")
	example, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("the page shows none")
	}
	if _, err := New([]byte(example)); err != nil {
		t.Error(err)
	}
}
