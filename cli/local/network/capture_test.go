// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// framesOf reads a pcap file, as its format says (draft-ietf-opsawg-pcap, section 4).
func framesOf(t *testing.T, file []byte) (frames [][]byte) {
	t.Helper()
	if len(file) < 24 || !bytes.Equal(file[:8], []byte{0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0}) || file[20] != 1 {
		t.Fatalf("it begins with %x", file[:min(24, len(file))])
	}
	for rest := file[24:]; len(rest) > 0; {
		size := int(binary.LittleEndian.Uint32(rest[8:]))
		frames, rest = append(frames, rest[16:16+size]), rest[16+size:]
	}
	return frames
}

// promptFile says when something was written to it.
type promptFile struct {
	bytes.Buffer
	once  sync.Once
	ready chan struct{}
}

func (f *promptFile) Write(p []byte) (int, error) {
	n, err := f.Buffer.Write(p)
	f.once.Do(func() { close(f.ready) })
	return n, err
}

// TestCapture: what machines say to each other and to this program is all there, both ways.
func TestCapture(t *testing.T) {
	n := newNetworkOf(t, twoHosts())
	first, second := guestAt(t, n, firstMAC, firstIP), guestAt(t, n, secondMAC, secondIP)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	file, ended := &promptFile{ready: make(chan struct{})}, make(chan error, 1)
	go func() { ended <- n.Capture(ctx, file) }()
	<-file.ready

	say := func(from, to net.Conn, what string) {
		t.Helper()
		if _, err := io.WriteString(from, what); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(to, make([]byte, len(what))); err != nil {
			t.Fatal(err)
		}
	}
	l := listenOn(t, second, secondIP, 80)
	pair := func(dial func(context.Context) (net.Conn, error)) (a, b net.Conn) {
		t.Helper()
		timed, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		a, err := dial(timed)
		if err != nil {
			t.Fatal(err)
		}
		b, err = l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return a, b
	}
	a, b := pair(func(ctx context.Context) (net.Conn, error) {
		return gonet.DialContextTCP(ctx, first, fullAddress(secondIP, 80), ipv4.ProtocolNumber)
	})
	say(a, b, "from machine to machine")
	say(b, a, "and back")
	a, b = pair(func(ctx context.Context) (net.Conn, error) {
		return n.Dial(ctx, netip.MustParseAddrPort(secondIP+":80"))
	})
	say(a, b, "from the gateway")
	say(b, a, "to the gateway")
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	frames := framesOf(t, file.Bytes())
	for _, want := range []string{"from machine to machine", "and back", "from the gateway", "to the gateway"} {
		if n := count(frames, want); n != 1 {
			t.Errorf("%q is in %d frames, want 1", want, n)
		}
	}
	say(a, b, "after the end")
	if strings.Contains(file.String(), "after the end") {
		t.Error("it goes on after its end")
	}
}

func count(frames [][]byte, what string) (n int) {
	for _, f := range frames {
		if bytes.Contains(f, []byte(what)) {
			n++
		}
	}
	return n
}

// TestCaptureTooSlow: whoever does not keep up is told, and holds up nobody.
func TestCaptureTooSlow(t *testing.T) {
	n := newNetwork(t)
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- n.Capture(t.Context(), w) }()
	if _, err := io.ReadFull(r, make([]byte, 24)); err != nil {
		t.Fatal(err)
	}
	for range 2 * maxCaptured {
		n.captures.add(make([]byte, 60))
	}
	go io.Copy(io.Discard, r)
	if err := <-ended; !errors.Is(err, ErrCaptureTooSlow) {
		t.Errorf("got %v", err)
	}
}

func TestCaptureEndsWithTheNetwork(t *testing.T) {
	n, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	file, ended := &promptFile{ready: make(chan struct{})}, make(chan error, 1)
	go func() { ended <- n.Capture(t.Context(), file) }()
	<-file.ready
	n.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := n.Capture(t.Context(), io.Discard); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}
