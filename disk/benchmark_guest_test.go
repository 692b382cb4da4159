// SPDX-License-Identifier: Apache-2.0

//go:build guest

package disk

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/constellation-os/constellation/disk/devicemapper"
)

var throughput = flag.Bool("throughput", false, "measure the choices of encryption, which takes minutes")

// choice is a way to encrypt and authenticate.
type choice struct {
	name      string
	crypt     string   // dm-crypt's cipher; empty: the bare disk
	key       int      // bytes
	integrity string   // dm-crypt's option; empty: without authentication
	journal   string   // dm-integrity's mode
	options   []string // further ones of dm-crypt
}

var choices = []choice{
	{name: "bare disk"},
	{name: "AES-XTS, nothing authenticated", crypt: "aes-xts-plain64", key: 64},
	{name: "AES-XTS + HMAC-SHA256, journal (chosen)", crypt: "capi:authenc(hmac(sha256),xts(aes))-plain64", key: 96, integrity: "32:aead", journal: "J"},
	{name: "AES-XTS + HMAC-SHA256, no journal", crypt: "capi:authenc(hmac(sha256),xts(aes))-plain64", key: 96, integrity: "32:aead", journal: "D"},
	{name: "AEGIS-128, journal", crypt: "capi:aegis128-random", key: 16, integrity: "32:aead", journal: "J"},
	{name: "AEGIS-128, no journal", crypt: "capi:aegis128-random", key: 16, integrity: "32:aead", journal: "D"},
	{name: "AES-GCM, random nonces, journal", crypt: "capi:gcm(aes)-random", key: 32, integrity: "28:aead", journal: "J"},
}

const (
	benchmarkSpan = 32 << 20 // bytes that are written and read
	randomCount   = 400      // reads and writes of 4 KiB
)

// TestThroughput prints the table of docs/benchmarks.md.
func TestThroughput(t *testing.T) {
	if !*throughput {
		t.Skip("give -throughput to measure")
	}
	path := scratch(t, "large")
	for _, arguments := range [][]string{{"-c", "aes-xts", "-s", "512"}} {
		out, err := exec.Command("cryptsetup", append([]string{"benchmark"}, arguments...)...).CombinedOutput()
		if err != nil {
			t.Errorf("cryptsetup benchmark: %v: %s", err, out)
		}
		t.Logf("cryptsetup benchmark:\n%s", out)
	}
	var table strings.Builder
	for _, c := range choices {
		speeds, err := c.measure(path)
		if err != nil {
			fmt.Fprintf(&table, "%-42s %v\n", c.name, err)
			continue
		}
		fmt.Fprintf(&table, "%-42s %s\n", c.name, speeds)
	}
	t.Logf("MiB/s of sequential write and read in 1 MiB, random write and read in 4 KiB:\n%s", table.String())
}

func (c choice) measure(path string) (string, error) {
	device := path
	if c.crypt != "" {
		var err error
		if device, err = c.mapOver(path); err != nil {
			return "", err
		}
		defer func() {
			_ = remove("benchmark")
			_ = remove("benchmark_dif") // not there without authentication
		}()
	}
	file, err := os.OpenFile(device, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return "", err
	}
	defer file.Close()
	source := rand.New(rand.NewPCG(1, 2))
	var speeds []string
	for _, run := range []struct {
		block, count int
		write        bool
		at           func(i int) int64
	}{
		{1 << 20, benchmarkSpan >> 20, true, func(i int) int64 { return int64(i) << 20 }},
		{1 << 20, benchmarkSpan >> 20, false, func(i int) int64 { return int64(i) << 20 }},
		{4096, randomCount, true, func(int) int64 { return source.Int64N(benchmarkSpan/4096) * 4096 }},
		{4096, randomCount, false, func(int) int64 { return source.Int64N(benchmarkSpan/4096) * 4096 }},
	} {
		buffer := aligned(run.block)
		begin := time.Now()
		for i := range run.count {
			if run.write {
				_, err = file.WriteAt(buffer, run.at(i))
			} else {
				_, err = file.ReadAt(buffer, run.at(i))
			}
			if err != nil {
				return "", err
			}
		}
		if run.write {
			if err := file.Sync(); err != nil {
				return "", err
			}
		}
		speeds = append(speeds, fmt.Sprintf("%7.1f", float64(run.block*run.count)/(1<<20)/time.Since(begin).Seconds()))
	}
	return strings.Join(speeds, " "), nil
}

// aligned returns a buffer for direct reading and writing.
func aligned(size int) []byte {
	raw := make([]byte, size+4096)
	skip := 4096 - int(uintptr(unsafe.Pointer(&raw[0]))%4096)
	return raw[skip : skip+size]
}

func (c choice) mapOver(path string) (string, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return "", err
	}
	below := fmt.Sprintf("%d:%d", unix.Major(stat.Rdev), unix.Minor(stat.Rdev))
	sectors := uint64(4 << 30 / sector)
	options := append([]string{"sector_size:4096"}, c.options...)
	if c.integrity != "" {
		blank, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return "", err
		}
		err = write(fileDevice{blank}, make([]byte, 1<<20), 0)
		blank.Close()
		if err != nil {
			return "", err
		}
		tag, _, _ := strings.Cut(c.integrity, ":")
		major, minor, err := devicemapper.Create(devicemapper.Table{
			Name: "benchmark_dif", UUID: "benchmark_dif", Sectors: sectors, Target: "integrity",
			Parameters: fmt.Sprintf("%s 0 %s %s 2 block_size:4096 fix_padding", below, tag, c.journal),
		})
		if err != nil {
			return "", err
		}
		below = fmt.Sprintf("%d:%d", major, minor)
		options = append(options, "integrity:"+c.integrity)
	}
	_, minor, err := devicemapper.Create(devicemapper.Table{
		Name: "benchmark", UUID: "benchmark", Sectors: sectors, Target: "crypt",
		Parameters: fmt.Sprintf("%s %x 0 %s 0 %d %s", c.crypt, random(c.key), below, len(options), strings.Join(options, " ")),
	})
	if err != nil && c.integrity != "" {
		_ = remove("benchmark_dif")
	}
	return fmt.Sprintf("/dev/dm-%d", minor), err
}
