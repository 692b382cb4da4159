// SPDX-License-Identifier: Apache-2.0

package adversarytest

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
)

// Forward passes what comes to a listener on, untouched, until the test ends or somebody
// cuts it.
func Forward(t testing.TB, l net.Listener, dial func(context.Context) (net.Conn, error)) (cut func()) {
	return Serve(t, l, func(ctx context.Context, here net.Conn) {
		there, err := dial(ctx)
		if err != nil {
			return
		}
		defer there.Close()
		defer context.AfterFunc(ctx, func() { there.Close() })()
		var both sync.WaitGroup
		pass := func(to, from net.Conn) {
			_, err := io.Copy(to, from)
			half, ok := to.(interface{ CloseWrite() error })
			if err != nil || !ok || half.CloseWrite() != nil {
				here.Close()
				there.Close()
			}
		}
		both.Go(func() { pass(there, here) })
		both.Go(func() { pass(here, there) })
		both.Wait()
	})
}

// Serve takes each connection that comes to a listener, until the test ends or somebody
// cuts it: then nobody listens, and what is under way ends.
func Serve(t testing.TB, l net.Listener, take func(context.Context, net.Conn)) (cut func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				take(ctx, conn)
			})
		}
	})
	cut = func() {
		cancel()
		l.Close()
		running.Wait()
	}
	t.Cleanup(cut)
	return cut
}
