// SPDX-License-Identifier: Apache-2.0

//go:build guest

package disk

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSyncLatency prints how long it takes until a small write is on the disk, on an idle
// machine and on one whose processors are busy: etcd waits for that with every change of
// a cluster.
func TestSyncLatency(t *testing.T) {
	if !*throughput {
		t.Skip("give -throughput to measure")
	}
	path := scratch(t, "large")
	chosen := choices[2]
	for _, options := range [][]string{nil, {"high_priority"}, {"no_read_workqueue", "no_write_workqueue"}, {"high_priority", "no_read_workqueue", "no_write_workqueue"}, {"same_cpu_crypt", "submit_from_crypt_cpus"}} {
		c := chosen
		c.options = options
		idle, busy, err := c.latency(path)
		if err != nil {
			t.Errorf("%v: %v", options, err)
			continue
		}
		t.Logf("%-60s idle %v, busy %v", strings.Join(options, " "), idle, busy)
	}
}

// latency is the median and the 95th percentile of both.
func (c choice) latency(path string) (idle, busy string, err error) {
	device, err := c.mapOver(path)
	if err != nil {
		return "", "", err
	}
	defer func() {
		_ = remove("benchmark")
		_ = remove("benchmark_dif")
	}()
	file, err := os.OpenFile(device, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return "", "", err
	}
	defer file.Close()
	if idle, err = syncs(file); err != nil {
		return "", "", err
	}
	var stop atomic.Bool
	var work sync.WaitGroup
	for range 3 * runtime.NumCPU() {
		work.Go(func() {
			runtime.LockOSThread()
			for !stop.Load() {
			}
		})
	}
	busy, err = syncs(file)
	stop.Store(true)
	work.Wait()
	return idle, busy, err
}

func syncs(file *os.File) (string, error) {
	var took []time.Duration
	buffer := aligned(4096)
	for i := range 100 {
		begin := time.Now()
		if _, err := file.WriteAt(buffer, int64(i)*4096); err != nil {
			return "", err
		}
		if err := unix.Fdatasync(int(file.Fd())); err != nil {
			return "", err
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	return fmt.Sprintf("%.1f/%.1f ms", float64(took[50].Microseconds())/1000, float64(took[95].Microseconds())/1000), nil
}
