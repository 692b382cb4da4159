// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// wireguardPort is flannel's.
const wireguardPort = 51820

// Where pods and machines are.
var (
	podNetwork     = netip.MustParsePrefix("10.244.0.0/16")
	machineNetwork = netip.MustParsePrefix("10.77.0.0/24")
)

// encrypted watches every frame of the cluster's network while a pod of each node fetches
// what a pod of the other keeps. That whoever watches would find it is shown with the
// nodes' own network, on which a pod serves the same.
func encrypted(t *testing.T, a *administrator, w *workload) {
	addresses := map[string]string{controlPlane: w.podAddress(t, controlPlane), worker: w.podAddress(t, worker)}
	frames := a.capture(t, func() {
		for node, address := range addresses {
			w.read(t, other(node), address+":"+podPort, node)
		}
	})
	between := 0
	for _, f := range frames {
		// What is printed comes to the administrator by TLS.
		for _, node := range []string{controlPlane, worker} {
			if bytes.Contains(f.raw, []byte(marker(node))) {
				t.Fatalf("a frame from %s to %s shows what %s keeps", f.from, f.to, node)
			}
		}
		if podNetwork.Contains(f.from) || podNetwork.Contains(f.to) {
			t.Fatalf("a frame from %s to %s is a pod's, as it is", f.from, f.to)
		}
		if f.isWireGuardData() {
			between++
		}
	}
	t.Logf("%d frames, of which %d carry WireGuard's data between the nodes", len(frames), between)
	if between < 10 {
		t.Errorf("%d frames carry what pods said: it went another way", between)
	}

	plain := a.capture(t, func() { w.read(t, controlPlane, workerAddress+":"+nodePort, worker) })
	for _, f := range plain {
		if bytes.Contains(f.raw, []byte(marker(worker))) {
			return
		}
	}
	t.Errorf("what is not encrypted is in none of %d frames: nothing is proven by those that are", len(plain))
}

// frame is an IPv4 packet on the network.
type frame struct {
	raw      []byte // with the Ethernet header
	from, to netip.Addr
}

const ethernetHeader = 14

// isWireGuardData says whether a frame carries data between the two nodes: UDP, and a
// message of type 4 (WireGuard's paper, section 5.4.6).
func (f frame) isWireGuardData() bool {
	ip := f.raw[ethernetHeader:]
	header := int(ip[0]&0xf) * 4
	if !machineNetwork.Contains(f.from) || !machineNetwork.Contains(f.to) || ip[9] != 17 || len(ip) < header+12 {
		return false
	}
	udp := ip[header:]
	return binary.BigEndian.Uint16(udp[2:]) == wireguardPort && bytes.Equal(udp[8:12], []byte{4, 0, 0, 0})
}

// capture is what is on the cluster's network while something is done.
func (a *administrator) capture(t *testing.T, do func()) (frames []frame) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "frames.pcap")
	cmd := exec.Command(os.Getenv(commandEnv), "local", "capture", path)
	cmd.Dir = a.home
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	const header = 24
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if info, err := os.Stat(path); err == nil && info.Size() >= header {
			break
		}
		if time.Since(began) > patience {
			cmd.Process.Kill()
			cmd.Wait()
			t.Fatalf("nothing is captured: %s", stderr.String())
		}
	}
	func() {
		defer cmd.Process.Signal(os.Interrupt)
		do()
	}()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("capture: %v: %s", err, stderr.String())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for rest := data[header:]; len(rest) >= 16; {
		size := int(binary.LittleEndian.Uint32(rest[8:]))
		raw := rest[16 : 16+size]
		rest = rest[16+size:]
		if len(raw) >= ethernetHeader+20 && raw[12] == 8 && raw[13] == 0 {
			ip := raw[ethernetHeader:]
			frames = append(frames, frame{raw, netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))})
		}
	}
	return frames
}
