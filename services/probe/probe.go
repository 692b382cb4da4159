// SPDX-License-Identifier: Apache-2.0

// Package probe is what a service shows of itself by HTTP: /healthz (the process
// answers), /readyz (it can do its work) and /metrics. None of it is secret, and
// anybody may ask.
package probe

import (
	"fmt"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"

	"github.com/constellation-os/constellation/services/limit"
)

// Limits of connections and requests.
const (
	connections = 128
	requestTime = 10 * time.Second
	idleTime    = time.Minute
	maxHeaders  = 16 << 10
)

// Share is how many connections one address may have at once.
const Share = 16

// NewServer makes a server. ready says why the service cannot do its work, nil if it can;
// what it says is shown.
func NewServer(ready func() error, metrics http.Handler) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", metrics)
	return &http.Server{Handler: mux, ReadTimeout: requestTime, WriteTimeout: requestTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeaders}
}

// Listen opens its address, and bounds what strangers can hold of it.
func Listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	return limit.Share(netutil.LimitListener(l, connections), Share), nil
}
