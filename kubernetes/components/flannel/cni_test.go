// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
)

// registered is a network as a backend gives it.
type registered struct{ lease *lease.Lease }

func (r registered) Lease() *lease.Lease { return r.lease }
func (r registered) MTU() int            { return 1420 }
func (r registered) Run(context.Context) {}

func parse(t *testing.T, cidr string) ip.IP4Net {
	t.Helper()
	_, n, err := net.ParseCIDR(cidr)
	if err != nil {
		t.Fatal(err)
	}
	return ip.FromIPNet(n)
}

// TestWriteCNI: what the runtime reads is what the plugins bridge, host-local and portmap take.
func TestWriteCNI(t *testing.T) {
	path := filepath.Join(t.TempDir(), "10-constellation.conflist")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := &subnet.Config{EnableIPv4: true, Network: parse(t, "10.244.0.0/16")}
	if err := writeCNI(path, config, registered{&lease.Lease{Subnet: parse(t, "10.244.3.0/24")}}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"cniVersion":"1.0.0","name":"constellation","plugins":[` +
		`{"type":"bridge","bridge":"cni0","isDefaultGateway":true,"hairpinMode":true,"mtu":1420,"ipam":{"type":"host-local",` +
		`"dataDir":"/run/cni/networks","ranges":[[{"subnet":"10.244.3.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}]}},` +
		`{"type":"portmap","backend":"nftables","capabilities":{"portMappings":true}}]}`
	var a, b any
	if json.Unmarshal(data, &a) != nil || json.Unmarshal([]byte(want), &b) != nil {
		t.Fatalf("not JSON: %s", data)
	}
	got, _ := json.Marshal(a)
	wanted, _ := json.Marshal(b)
	if string(got) != string(wanted) {
		t.Errorf("got  %s\nwant %s", got, wanted)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("files %v, %v", entries, err)
	}
}
