// SPDX-License-Identifier: Apache-2.0

package keyservice

import (
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/services/probe"
)

// occupy opens connections to an address, from this machine's usual one, and
// keeps them open. It counts those that the other side does not close.
func occupy(t *testing.T, address string, most int) int {
	t.Helper()
	var conns []net.Conn
	for range most {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conns = append(conns, conn)
	}
	var open atomic.Int32
	var wg sync.WaitGroup
	for _, conn := range conns {
		conn.SetReadDeadline(time.Now().Add(time.Second))
		wg.Go(func() {
			if _, err := conn.Read(make([]byte, 1)); isTimeout(err) {
				open.Add(1)
			}
		})
	}
	wg.Wait()
	return int(open.Load())
}

// TestOneAddressDoesNotTakeAll: a stranger who opens connections and says nothing
// keeps nobody else out, neither callers nor probes.
func TestOneAddressDoesNotTakeAll(t *testing.T) {
	limits := generous()
	limits.Connections = 16
	f := serve(t, healthy{keys.Generate()}, limits)
	from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: 5 * time.Second}

	if n := occupy(t, f.Address(), 16); n != 2 {
		t.Errorf("one address has %d of 16 connections", n)
	}
	conn, err := from.Dial("tcp", f.Address())
	if err != nil {
		t.Skipf("this system has one loopback address only: %v", err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("another address: %v", err)
	}

	if n := occupy(t, f.HTTPAddress(), 2*probe.Share); n != probe.Share {
		t.Errorf("one address has %d connections to the probes", n)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: from.DialContext}, Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + f.HTTPAddress() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}
