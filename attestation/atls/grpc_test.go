// SPDX-License-Identifier: Apache-2.0

package atls

import (
	"context"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/attestationtest"
)

// health answers with what the handler's context says of the peer.
type health struct {
	grpc_health_v1.UnimplementedHealthServer
	seen chan *attestation.Claims
}

func (h *health) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	claims, err := ClaimsFromContext(ctx)
	if err != nil {
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	h.seen <- claims
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

// listener keeps what it accepted, so that a test can cut the connections.
type listener struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.conns = append(l.conns, c)
	}
	return c, err
}

func (l *listener) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		c.Close()
	}
	l.conns = nil
}

func listen(t *testing.T) *listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return &listener{Listener: l}
}

// serve starts a gRPC server that is gone when the test is.
func serve(t *testing.T, c *transport) (*listener, *health) {
	t.Helper()
	l, h := listen(t), &health{seen: make(chan *attestation.Claims, 16)}
	s := grpc.NewServer(grpc.Creds(c))
	grpc_health_v1.RegisterHealthServer(s, h)
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(l) })
	t.Cleanup(func() { s.Stop(); wg.Wait() })
	return l, h
}

func dial(t *testing.T, l net.Listener, option grpc.DialOption) grpc_health_v1.HealthClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), option)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return grpc_health_v1.NewHealthClient(conn)
}

// bindings records what evidence is asked for.
type bindings struct {
	*attestationtest.Device
	mu  sync.Mutex
	all map[attestation.Binding]int
}

func (b *bindings) Issue(ctx context.Context, x attestation.Binding) (*attestation.Evidence, error) {
	b.mu.Lock()
	b.all[x]++
	b.mu.Unlock()
	return b.Device.Issue(ctx, x)
}

// TestRPC: handlers see the claims, and each reconnection proves everything anew.
func TestRPC(t *testing.T) {
	node := &bindings{Device: attestationtest.NewDevice("node"), all: map[attestation.Binding]int{}}
	join := &bindings{Device: attestationtest.NewDevice("join"), all: map[attestation.Binding]int{}}
	l, h := serve(t, must(ServerMutual(join, verifiers{attestationtest.Accept(node.Device)}, Options{})))
	c := dial(t, l, grpc.WithTransportCredentials(must(ClientMutual(node, verifiers{attestationtest.Accept(join.Device)}, Options{}))))
	const connections = 3
	for range connections {
		_, err := c.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}, grpc.WaitForReady(true))
		for status.Code(err) == codes.Unavailable { // sent on the connection that was cut
			_, err = c.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}, grpc.WaitForReady(true))
		}
		if err != nil {
			t.Fatal(err)
		}
		if claims := <-h.seen; claims.Image != "node" || claims.Grant.Name != "device-0" {
			t.Errorf("the handler sees %+v", claims)
		}
		l.cut()
	}
	for _, b := range []*bindings{node, join} {
		if len(b.all) < connections {
			t.Errorf("%d bindings for %d connections", len(b.all), connections)
		}
		for _, n := range b.all {
			if n != 1 {
				t.Errorf("a binding was used %d times", n)
			}
		}
	}
}

func TestRPCWithoutClaims(t *testing.T) {
	join := attestationtest.NewDevice("join")
	request := &grpc_health_v1.HealthCheckRequest{}
	t.Run("a peer that proved nothing", func(t *testing.T) {
		l, _ := serve(t, must(ServerProve(join, Options{})))
		c := dial(t, l, grpc.WithTransportCredentials(must(ClientVerify(verifiers{attestationtest.Accept(join)}, Options{}))))
		if _, err := c.Check(t.Context(), request); status.Code(err) != codes.PermissionDenied {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a client learns of the server by the call", func(t *testing.T) {
		l, _ := serve(t, must(ServerProve(join, Options{})))
		c := dial(t, l, grpc.WithTransportCredentials(must(ClientVerify(verifiers{attestationtest.Accept(join)}, Options{}))))
		var p peer.Peer
		c.Check(t.Context(), request, grpc.Peer(&p))
		info, ok := p.AuthInfo.(Info)
		if claims, err := info.Claims(); !ok || err != nil || claims.Image != "join" {
			t.Errorf("got %v, %v", claims, err)
		}
	})
	t.Run("a server in plain text", func(t *testing.T) {
		l, h := listen(t), &health{}
		s := grpc.NewServer()
		grpc_health_v1.RegisterHealthServer(s, h)
		go s.Serve(l)
		defer s.Stop()
		c := dial(t, l, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if _, err := c.Check(t.Context(), request); status.Code(err) != codes.PermissionDenied {
			t.Errorf("got %v", err)
		}
	})
	t.Run("another authority for one call", func(t *testing.T) {
		l, _ := serve(t, must(ServerProve(join, Options{})))
		c := dial(t, l, grpc.WithTransportCredentials(must(ClientVerify(verifiers{attestationtest.Accept(join)}, Options{}))))
		if _, err := c.Check(t.Context(), request, grpc.CallAuthority("other")); status.Code(err) != codes.Unavailable {
			t.Errorf("got %v", err)
		}
	})
	t.Run("outside of an RPC", func(t *testing.T) {
		if claims, err := ClaimsFromContext(t.Context()); err == nil || claims != nil {
			t.Errorf("claims %v", claims)
		}
	})
}

// TestFlood (V22).
func TestFlood(t *testing.T) {
	join := attestationtest.NewDevice("join")
	flood(t, join, verifiers{attestationtest.Accept(join)})
}

// counted counts what a device is made to do.
type counted struct {
	attestation.Responder
	n *atomic.Int64
}

func (c counted) Issue(ctx context.Context, b attestation.Binding) (*attestation.Evidence, error) {
	c.n.Add(1)
	return c.Responder.Issue(ctx, b)
}

func (c counted) Respond(ctx context.Context, b attestation.Binding, challenge []byte) ([]byte, error) {
	c.n.Add(1)
	return c.Responder.Respond(ctx, b, challenge)
}

// flood lets strangers from one address ask for evidence as fast as they can. The
// quotes stay within the bound, and a peer from elsewhere gets its own.
func flood(t *testing.T, join attestation.Responder, accept verifiers) {
	const rate, burst, strangers = 20, 5, 64
	var quotes atomic.Int64
	serverSide := must(ServerProve(counted{join, &quotes}, Options{QuotesPerSecond: rate, QuoteBurst: burst}))
	clientSide := must(ClientVerify(accept, Options{}))
	l := listen(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				if conn, _, err := serverSide.ServerHandshake(raw); err == nil {
					conn.Close()
				}
			})
		}
	})
	began := time.Now()
	connect := func(ctx context.Context, from string) error {
		raw, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext(ctx, "tcp", l.Addr().String())
		if err != nil {
			return err
		}
		conn, _, err := clientSide.ClientHandshake(ctx, "", raw)
		if err == nil {
			conn.Close()
		}
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	for range strangers {
		wg.Go(func() {
			for ctx.Err() == nil {
				connect(ctx, "127.0.0.2")
			}
		})
	}
	for quotes.Load() < 2*burst { // until the burst is spent and strangers queue
		runtime.Gosched()
	}
	for range 3 {
		if err := connect(t.Context(), "127.0.0.3"); err != nil {
			t.Errorf("the legitimate peer: %v", err)
		}
	}
	elapsed := time.Since(began)
	if n, most := quotes.Load(), int64(burst+rate*elapsed.Seconds()+1); n > most {
		t.Errorf("%d quotes in %v, at most %d", n, elapsed, most)
	}
	cancel()
	l.Close()
	l.cut()
	wg.Wait()
}

// TestThousandAtOnce: 1,000 handshakes against one server, all of them mutual and
// from one source: none fails, and the heap stays small.
func TestThousandAtOnce(t *testing.T) {
	const n = 1000
	node, join := attestationtest.NewDevice("node"), attestationtest.NewDevice("join")
	var heap atomic.Uint64
	observe := func(Outcome) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		heap.Store(max(heap.Load(), m.HeapInuse))
	}
	o := Options{QuotesPerSecond: 1e6, QuoteBurst: n, Timeout: 5 * time.Minute}
	c := must(ClientMutual(node, verifiers{attestationtest.Accept(join)}, o))
	o.Observe = observe
	s := must(ServerMutual(join, verifiers{attestationtest.Accept(node)}, o))
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			a, b := net.Pipe()
			defer a.Close()
			defer b.Close()
			atClient, atServer := start(t.Context(), c, client, a), start(t.Context(), s, server, b)
			if got := <-atClient; got.err != nil {
				t.Errorf("client: %v", got.err)
			}
			if got := <-atServer; got.err != nil {
				t.Errorf("server: %v", got.err)
			}
		})
	}
	wg.Wait()
	if most := uint64(256 << 20); heap.Load() > most {
		t.Errorf("the heap grew to %d bytes", heap.Load())
	}
	t.Logf("heap at most %d MiB", heap.Load()>>20)
}
