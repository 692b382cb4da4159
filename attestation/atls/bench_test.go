// SPDX-License-Identifier: Apache-2.0

package atls

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/attestationtest"
)

// unlimited lets a benchmark quote as often as it can.
var unlimited = Options{QuotesPerSecond: 1e9, QuoteBurst: 1 << 30}

// BenchmarkMutualHandshake is the channel alone: evidence costs next to nothing.
func BenchmarkMutualHandshake(b *testing.B) {
	node, join := attestationtest.NewDevice("node"), attestationtest.NewDevice("join")
	benchmarkMutual(b, node, join, verifiers{attestationtest.Accept(node)}, verifiers{attestationtest.Accept(join)})
}

func benchmarkMutual(b *testing.B, node, join attestation.Issuer, acceptNode, acceptJoin verifiers) {
	c, s := must(ClientMutual(node, acceptJoin, unlimited)), must(ServerMutual(join, acceptNode, unlimited))
	b.ReportAllocs()
	began := cpuTime(b)
	for b.Loop() {
		x, y := net.Pipe()
		atClient, atServer := start(b.Context(), c, client, x), start(b.Context(), s, server, y)
		if got := <-atClient; got.err != nil {
			b.Fatal(got.err)
		}
		if got := <-atServer; got.err != nil {
			b.Fatal(got.err)
		}
		x.Close()
		y.Close()
	}
	const sides = 2
	b.ReportMetric((cpuTime(b)-began).Seconds()*1e3/float64(b.N)/sides, "CPU-ms/side")
}

// cpuTime is what this process has used of all processors; a software TPM is another.
func cpuTime(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
