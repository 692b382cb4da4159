// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
)

// routeFile is the kernel's IPv4 routing table as text (proc_net(5)).
const routeFile = "/proc/self/net/route"

// maxRoutes is how much of the table is read, in bytes: 128 a line.
const maxRoutes = 1 << 20

// Flags of a route (include/uapi/linux/route.h).
const (
	routeUp      = 0x1
	routeGateway = 0x2
)

// ErrNoGateway says that the machine has no default route (yet): DHCP sets it.
var ErrNoGateway = errors.New("this machine has no default route: its network gave it no address yet, or no gateway")

// defaultGateway reads the gateway of the machine's default route.
func defaultGateway() (netip.Addr, error) {
	f, err := os.Open(routeFile)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find the gateway: %w", err)
	}
	defer f.Close()
	table, err := io.ReadAll(io.LimitReader(f, maxRoutes))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find the gateway: %w", err)
	}
	return parseGateway(table)
}

// parseGateway takes the gateway of the default route with the lowest metric. Columns
// are Iface, Destination, Gateway, Flags, RefCnt, Use, Metric, Mask, ...; addresses are
// hexadecimal in the byte order of the machine, which is little-endian on every one
// that there are images for.
func parseGateway(table []byte) (netip.Addr, error) {
	var best netip.Addr
	var bestMetric uint64
	for line := range bytes.Lines(table) {
		columns := bytes.Fields(line)
		if len(columns) < 8 || string(columns[1]) != "00000000" || string(columns[7]) != "00000000" {
			continue
		}
		flags, err := strconv.ParseUint(string(columns[3]), 16, 32)
		if err != nil || flags&(routeUp|routeGateway) != routeUp|routeGateway {
			continue
		}
		metric, err := strconv.ParseUint(string(columns[6]), 10, 32)
		if err != nil {
			continue
		}
		raw, err := hex.DecodeString(string(columns[2]))
		if err != nil || len(raw) != 4 {
			continue
		}
		if !best.IsValid() || metric < bestMetric {
			best, bestMetric = netip.AddrFrom4([4]byte{raw[3], raw[2], raw[1], raw[0]}), metric
		}
	}
	if !best.IsValid() || best.IsUnspecified() {
		return netip.Addr{}, ErrNoGateway
	}
	return best, nil
}
