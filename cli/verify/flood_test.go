// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package verify_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// flood asks from an address, without a pause, and counts how often it is turned away.
func flood(ctx context.Context, t *testing.T, from, base string, turned *atomic.Int64) {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	client := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext}}
	defer client.CloseIdleConnections()
	for ctx.Err() == nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/evidence", strings.NewReader(strings.Repeat("5a", 32)))
		if err != nil {
			t.Error(err)
			return
		}
		resp, err := client.Do(req)
		if err != nil {
			continue
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode == http.StatusTooManyRequests {
			turned.Add(1)
			time.Sleep(10 * time.Millisecond) // the processors are others' too
		}
	}
}
