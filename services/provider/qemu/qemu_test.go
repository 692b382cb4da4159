// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/constellation-os/constellation/services/provider"
)

const hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

const document = `{"format":"constellation-metadata/v1",
"self":{"name":"node-1","role":"control-plane","init_secret_sha256":"` + hash + `"},
"peers":[{"name":"node-2","role":"worker","address":"10.77.0.50"}],
"endpoint":"api.constellation.internal:6443",
"cluster":{"id":"` + id + `","policy":{"version":1}}}`

// id is a cluster's.
const id = "4a7b5f2f0e7f0d3c1b6f9a8e5d4c3b2a190807f6e5d4c3b2a19080706050403f"

func want() *Document {
	d := &Document{
		Self:     provider.Self{Name: "node-1", Role: provider.ControlPlane, InitSecretHash: &[32]byte{}},
		Peers:    []provider.Peer{{Name: "node-2", Role: provider.Worker, Address: netip.MustParseAddr("10.77.0.50")}},
		Endpoint: "api.constellation.internal:6443",
		Cluster:  &provider.Cluster{Policy: []byte(`{"version":1}`)},
	}
	copy(d.Cluster.ID[:], "\x4a\x7b\x5f\x2f\x0e\x7f\x0d\x3c\x1b\x6f\x9a\x8e\x5d\x4c\x3b\x2a\x19\x08\x07\xf6\xe5\xd4\xc3\xb2\xa1\x90\x80\x70\x60\x50\x40\x3f")
	h, err := provider.ParseHash(hash)
	if err != nil {
		panic(err)
	}
	d.Self.InitSecretHash = h
	return d
}

var sameAddress = cmpopts.EquateComparable(netip.Addr{})

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name, text, refusal string
	}{
		{"all of it", document, ""},
		{"another version", strings.Replace(document, "/v1", "/v2", 1), `this program reads "constellation-metadata/v1"`},
		{"an unknown field", strings.Replace(document, `"endpoint"`, `"endpoints"`, 1), `unknown field "endpoints"`},
		{"a field twice", strings.Replace(document, `"name":"node-1"`, `"name":"node-1","name":"node-3"`, 1), "twice in one object"},
		{"a name that is a path", strings.Replace(document, "node-1", "../node", 1), `self: name "../node"`},
		{"no name", strings.Replace(document, "node-1", "", 1), `self: name ""`},
		{"an unknown role", strings.Replace(document, `"worker"`, `"king"`, 1), `role "king"`},
		{"half a hash", strings.Replace(document, hash, hash[:32], 1), "want 64 hexadecimal digits"},
		{"no address", strings.Replace(document, "10.77.0.50", "here", 1), `address "here" is none`},
		{"an address of nobody", strings.Replace(document, "10.77.0.50", "127.0.0.1", 1), `address "127.0.0.1" is not one`},
		{"an endpoint without a port", strings.Replace(document, ":6443", "", 1), "want HOST:PORT"},
		{"an endpoint with port 0", strings.Replace(document, ":6443", ":0", 1), "want a port of 1 to 65535"},
		{"an endpoint that is no name", strings.Replace(document, "api.const", "api .const", 1), `name "api "`},
		{"half an identity", strings.Replace(document, id, id[:32], 1), "cluster: id: want 64 hexadecimal digits"},
		{"nobody's identity", strings.Replace(document, id, strings.Repeat("0", 64), 1), "cluster: id: it is zero"},
		{"a cluster without a policy", strings.Replace(document, `,"policy":{"version":1}`, "", 1), "cluster: policy: want a JSON object"},
		{"a policy that is a word", strings.Replace(document, `{"version":1}`, `"none"`, 1), "cluster: policy: want a JSON object"},
		{"a policy with a field twice", strings.Replace(document, `{"version":1}`, `{"a":1,"a":2}`, 1), "twice in one object"},
		{"a large policy", strings.Replace(document, `{"version":1}`, `{"a":"`+strings.Repeat("x", provider.MaxPolicy)+`"}`, 1), "cluster: policy: 131080 bytes, at most 131072"},
		{"something behind it", document + "{}", "something follows"},
		{"too much", strings.Repeat(" ", MaxSize+1), "at most 262144"},
		{"nothing", "", "ends early"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Parse([]byte(tc.text))
			if tc.refusal != "" {
				if err == nil || !strings.Contains(err.Error(), tc.refusal) {
					t.Fatalf("got %v, want an error with %q", err, tc.refusal)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want(), got, sameAddress); diff != "" {
				t.Errorf("document (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMarshal(t *testing.T) {
	data, err := want().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want(), got, sameAddress); diff != "" {
		t.Errorf("document (-want +got):\n%s", diff)
	}
	bad := want()
	bad.Peers = append(bad.Peers, bad.Peers[0])
	if _, err := bad.Marshal(); err == nil || !strings.Contains(err.Error(), "there twice") {
		t.Errorf("a peer that is there twice: %v", err)
	}
}

const header = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"

func TestParseGateway(t *testing.T) {
	for _, tc := range []struct {
		name, table, want string
	}{
		{"one", header + "enp0s2\t00000000\t01004D0A\t0003\t0\t0\t1024\t00000000\t0\t0\t0\nenp0s2\t00004D0A\t00000000\t0001\t0\t0\t1024\t00FFFFFF\t0\t0\t0\n", "10.77.0.1"},
		{"the lower metric", header + "a\t00000000\t01004D0A\t0003\t0\t0\t100\t00000000\nb\t00000000\t02004D0A\t0003\t0\t0\t20\t00000000\n", "10.77.0.2"},
		{"half of all addresses is no default", header + "a\t00000000\t01004D0A\t0003\t0\t0\t100\t00000080\n", ""},
		{"a link's route has no gateway", header + "a\t00000000\t00000000\t0001\t0\t0\t100\t00000000\n", ""},
		{"a route that is down", header + "a\t00000000\t01004D0A\t0002\t0\t0\t100\t00000000\n", ""},
		{"garbage", header + "a\t00000000\tXX004D0A\t0003\t0\t0\t100\t00000000\n", ""},
		{"cut short", header + "a\t00000000\t0100", ""},
		{"nothing", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parseGateway([]byte(tc.table))
			if tc.want == "" {
				if !errors.Is(err, ErrNoGateway) {
					t.Errorf("got %v, %v, want %v", got, err, ErrNoGateway)
				}
				return
			}
			if err != nil || got.String() != tc.want {
				t.Errorf("got %v, %v, want %s", got, err, tc.want)
			}
		})
	}
}

func serve(t *testing.T, h http.HandlerFunc) *Provider {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	at := netip.MustParseAddrPort(s.Listener.Addr().String())
	return newProvider(func() (netip.Addr, error) { return at.Addr(), nil }, at.Port())
}

func TestProvider(t *testing.T) {
	p := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != Path || r.Method != http.MethodGet {
			http.NotFound(w, r)
			return
		}
		w.Write([]byte(document))
	})
	self, err := p.Self(t.Context())
	if diff := cmp.Diff(want().Self, self); err != nil || diff != "" {
		t.Errorf("%v, self (-want +got):\n%s", err, diff)
	}
	peers, err := p.Peers(t.Context())
	if diff := cmp.Diff(want().Peers, peers, sameAddress); err != nil || diff != "" {
		t.Errorf("%v, peers (-want +got):\n%s", err, diff)
	}
	if endpoint, err := p.Endpoint(t.Context()); err != nil || endpoint != want().Endpoint {
		t.Errorf("%v, endpoint %s", err, endpoint)
	}
	cluster, err := p.Cluster(t.Context())
	if diff := cmp.Diff(want().Cluster, cluster); err != nil || diff != "" {
		t.Errorf("%v, cluster (-want +got):\n%s", err, diff)
	}
}

// TestNoCluster: a machine that waits for its owner is told of none.
func TestNoCluster(t *testing.T) {
	d := want()
	d.Cluster = nil
	data, err := d.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	p := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(data) })
	if cluster, err := p.Cluster(t.Context()); cluster != nil || err != nil {
		t.Errorf("cluster %v, %v", cluster, err)
	}
}

func TestHostileServers(t *testing.T) {
	released := make(chan struct{})
	for _, tc := range []struct {
		name, refusal string
		serve         http.HandlerFunc
	}{
		{"not found", "answers with status 404", http.NotFound},
		{"elsewhere", "it redirects", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		}},
		{"without end", "at most 262144", func(w http.ResponseWriter, r *http.Request) {
			for {
				if _, err := w.Write([]byte(strings.Repeat(" ", 1<<16))); err != nil {
					return
				}
			}
		}},
		{"a large header", "metadata: ", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 2*maxHeader))
			w.Write([]byte(document))
		}},
		{"silent", "Client.Timeout", func(w http.ResponseWriter, r *http.Request) { <-released }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := serve(t, tc.serve)
			if tc.name == "silent" {
				p.client.Timeout = 50 * time.Millisecond
				t.Cleanup(func() { close(released) }) // before the server closes
			}
			if _, err := p.Get(t.Context()); err == nil || !strings.Contains(err.Error(), tc.refusal) {
				t.Errorf("got %v, want an error with %q", err, tc.refusal)
			}
		})
	}
	p := newProvider(func() (netip.Addr, error) { return netip.Addr{}, ErrNoGateway }, 80)
	if _, err := p.Self(t.Context()); !errors.Is(err, ErrNoGateway) {
		t.Errorf("without a gateway: %v", err)
	}
}

// TestPage: the document that docs/providers.md shows is one.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../../docs/providers.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```json\n")
	example, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("the page shows none")
	}
	if _, err := Parse([]byte(example)); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(document))
	f.Add([]byte(strings.Replace(document, `{"version":1}`, "{\n\"<\": 1}", 1)))
	f.Add([]byte(`{"format":"constellation-metadata/v1","self":{"name":"a","role":"worker"},"peers":[],"endpoint":"[fd00::1]:6443"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Parse(data)
		if err != nil {
			return
		}
		again, err := d.Marshal()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		e, err := Parse(again)
		if d.Cluster != nil && e != nil && e.Cluster != nil {
			d.Cluster.Policy = e.Cluster.Policy // its white space is lost
		}
		if err != nil || !cmp.Equal(d, e, sameAddress, cmpopts.EquateEmpty()) {
			t.Fatalf("what was written is read as something else: %v", err)
		}
	})
}

func FuzzParseGateway(f *testing.F) {
	f.Add([]byte(header + "enp0s2\t00000000\t01004D0A\t0003\t0\t0\t1024\t00000000\t0\t0\t0\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if a, err := parseGateway(data); err == nil && (!a.Is4() || a.IsUnspecified()) {
			t.Fatalf("gateway %v", a)
		}
	})
}
