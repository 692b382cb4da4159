// SPDX-License-Identifier: Apache-2.0

// Package guard keeps what pods say to each other off the wire, and what comes from
// the wire away from pods. WireGuard encrypts what is sent through it; the guard sees
// to it that nothing goes around it:
//
//   - Packets for pods leave the node through WireGuard or the pods' bridge only. A
//     route that is missing, because WireGuard's interface is being made, would send
//     them to the default gateway in plain text.
//   - Packets from elsewhere are not forwarded to pods, unless a service sends them
//     there (node ports, load balancers) or a pod has asked for them.
//   - Nobody else speaks as a pod.
//   - Addresses of services are for pods and nodes, which translate them themselves.
//
// It is a packet filter of its own, in nftables, and stays when flannel ends. It does
// not decide which pods may talk to each other.
package guard

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
)

// Table is the guard's, of IPv4.
const Table = "constellation-guard"

// rules of the guard. One transaction: there is no moment without them.
//
// Priorities: before the connection is known (raw), before services' addresses are
// translated; and of what is forwarded and what leaves, after that.
const rules = `
table ip {{table}} {}
delete table ip {{table}}
table ip {{table}} {
	set inside {
		type ifname
		elements = { "lo", {{inside}} }
	}
	chain arriving {
		type filter hook prerouting priority raw; policy accept;
		iifname @inside accept
		ip saddr {{pods}} counter drop comment "speaks as a pod"
		ip daddr {{services}} counter drop comment "asks for a service from outside"
	}
	chain forwarded {
		type filter hook forward priority filter; policy accept;
		iifname @inside accept
		ct state established,related accept
		ct status dnat accept
		ip daddr {{pods}} counter drop comment "asks for a pod from outside"
	}
	chain leaving {
		type filter hook postrouting priority filter; policy accept;
		oifname @inside accept
		ip daddr {{pods}} counter drop comment "would leave in plain text"
	}
}
`

// Set sets the rules, in place of earlier ones. Inside are the interfaces on which
// pods are: their bridge and WireGuard's. They need not be there yet.
func Set(ctx context.Context, pods, services netip.Prefix, inside ...string) error {
	script, err := script(pods, services, inside)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("nft: %w: %.500s", err, out.String())
	}
	return nil
}

func script(pods, services netip.Prefix, inside []string) (string, error) {
	for _, p := range []netip.Prefix{pods, services} {
		if !p.IsValid() || !p.Addr().Is4() || p.Bits() == 0 {
			return "", fmt.Errorf("%s is no network of pods or services", p)
		}
	}
	if len(inside) == 0 {
		return "", fmt.Errorf("no interface is named")
	}
	var names []string
	for _, name := range inside {
		if name == "" || len(name) > 15 || strings.ContainsAny(name, "\"*\\/ \n") {
			return "", fmt.Errorf("%q is no interface's name", name)
		}
		names = append(names, `"`+name+`"`)
	}
	return strings.NewReplacer(
		"{{table}}", Table, "{{inside}}", strings.Join(names, ", "), "{{pods}}", pods.Masked().String(), "{{services}}", services.Masked().String(),
	).Replace(rules), nil
}
