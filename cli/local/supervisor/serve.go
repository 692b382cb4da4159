// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/constellation-os/constellation/services/provider"
	"github.com/constellation-os/constellation/services/provider/qemu"
)

// Bounds of what machines can hold of the servers on their network.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = time.Minute
	maxHeader     = 16 << 10 // bytes
)

// serveMachines serves metadata and the bundle on the machines' network.
func (s *Supervisor) serveMachines(folder string, bundle func(string) (http.Handler, error)) (stop func(), err error) {
	var servers []*http.Server
	var running sync.WaitGroup
	stop = func() {
		for _, server := range servers {
			server.Close()
		}
		running.Wait()
	}
	serve := func(port uint16, h http.Handler) error {
		l, err := s.network.Listen(port)
		if err != nil {
			return err
		}
		server := newServer(h)
		servers = append(servers, server)
		running.Go(func() { _ = server.Serve(l) }) // ends with an error when it is closed
		return nil
	}
	if err := serve(metadataPort, metadata(s.current)); err != nil {
		return nil, err
	}
	if folder != "" {
		h, err := bundle(folder)
		if err == nil {
			err = serve(bundlePort, h)
		}
		if err != nil {
			stop()
			return nil, err
		}
	}
	return stop, nil
}

func newServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader}
}

// metadata tells each machine about itself and its peers, by the address that it asks
// from. There is nothing secret in it.
func metadata(current func() *Spec) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+qemu.Path, func(w http.ResponseWriter, r *http.Request) {
		s := current()
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		i := slices.IndexFunc(s.Machines, func(m MachineSpec) bool { return err == nil && m.Address == from.Addr().Unmap() })
		if i < 0 {
			http.Error(w, "no machine of this cluster has your address", http.StatusNotFound)
			return
		}
		document, err := s.document(i).Marshal()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(document)
	})
	return mux
}

// document is what machine i is told.
func (s *Spec) document(i int) *qemu.Document {
	d := &qemu.Document{Self: provider.Self{Name: s.Machines[i].Name, Role: s.Machines[i].Role}, Endpoint: s.Endpoint}
	if h, err := provider.ParseHash(s.InitSecretHash); err == nil {
		d.Self.InitSecretHash = h
	}
	if c, err := s.cluster(); err == nil {
		d.Cluster = c
	}
	for j, m := range s.Machines {
		if j != i {
			d.Peers = append(d.Peers, provider.Peer{Name: m.Name, Role: m.Role, Address: m.Address})
		}
	}
	return d
}

// closeOnDone closes c when ctx is done.
func closeOnDone(ctx context.Context, c net.Conn) (release func() bool) {
	return context.AfterFunc(ctx, func() { _ = c.Close() })
}

var errNoMachine = errors.New("the cluster has no machine of that name")
