// SPDX-License-Identifier: Apache-2.0

//go:build guest

package diskmapper

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/services/api/diskmapper"
	"github.com/constellation-os/constellation/services/diskmapper/client"
	"github.com/constellation-os/constellation/tools/guesttest"
)

// service is a running service, with what it logs.
type service struct {
	diskmapper.DiskMapperClient
	conn *grpc.ClientConn
	log  *text
}

// text is what is written to it, by whomever.
type text struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (l *text) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(p)
}

func (l *text) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.String()
}

func start(t *testing.T, serial string) *service {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "socket")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &service{log: &text{}}
	server := New(&Finder{Blocks: os.DirFS("/sys/class/block"), Serial: serial, Patience: time.Second}, slog.New(slog.NewTextHandler(s.log, nil)))
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	if s.conn, err = client.Dial(socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.conn.Close() })
	s.DiskMapperClient = diskmapper.NewDiskMapperClient(s.conn)
	return s
}

// cluster remembers the generation of one disk, as JoinService will.
type cluster struct{ known disk.Generation }

func (c *cluster) Advance(_ context.Context, uuid string, from, to disk.Generation) (err error) {
	c.known, err = disk.Judge(uuid, c.known, from, to)
	return err
}

func newKey() []byte {
	key := make([]byte, disk.KeySize)
	rand.Read(key)
	return key
}

// shut closes the disk as a reboot would.
func shut(t *testing.T) {
	t.Helper()
	volume, err := disk.Current()
	if err != nil {
		t.Fatal(err)
	}
	if volume != nil {
		if err := volume.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func wantProblem(t *testing.T, err error, reason diskmapper.Problem_Reason, header string) {
	t.Helper()
	if p := client.ProblemOf(err); p.GetReason() != reason || p.GetHeaderReason() != header {
		t.Errorf("got %v (%v), want %v %q", err, p, reason, header)
	}
}

func TestLifeOfADisk(t *testing.T) {
	ctx, s, c := t.Context(), start(t, Serial), &cluster{}
	inspect := func(want diskmapper.Kind, uuid string) {
		t.Helper()
		in, err := s.Inspect(ctx, &diskmapper.InspectRequest{})
		if err != nil || in.Kind != want || in.Uuid != uuid || in.Size != 512<<20 {
			t.Errorf("the disk is %v, %v, want %v %s", in, err, want, uuid)
		}
	}
	key, uuid := newKey(), disk.NewUUID()
	inspect(diskmapper.Kind_KIND_FRESH, "")
	_, err := client.Open(ctx, s.conn, key, nil, c)
	wantProblem(t, err, diskmapper.Problem_REASON_FRESH, "")
	_, err = s.Grow(ctx, &diskmapper.GrowRequest{})
	wantProblem(t, err, diskmapper.Problem_REASON_CLOSED, "")

	opened, err := client.Open(ctx, s.conn, key, &diskmapper.Format{Uuid: uuid}, c)
	if err != nil {
		t.Fatal(err)
	}
	if opened.Uuid != uuid || opened.Size < 400<<20 || c.known.Number != 1 {
		t.Errorf("opened %v in generation %d", opened, c.known.Number)
	}
	folder := t.TempDir()
	if err := unix.Mount(opened.Device, folder, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Grow(ctx, &diskmapper.GrowRequest{}); err != nil {
		t.Error(err)
	}
	if err := unix.Unmount(folder, 0); err != nil {
		t.Fatal(err)
	}
	inspect(diskmapper.Kind_KIND_OURS, uuid)
	if status, err := s.Status(ctx, &diskmapper.StatusRequest{}); err != nil || status.Open.GetUuid() != uuid {
		t.Errorf("status %v, %v", status, err)
	}
	_, err = client.Open(ctx, s.conn, key, nil, c)
	wantProblem(t, err, diskmapper.Problem_REASON_OPEN, "")
	shut(t)
	if status, err := s.Status(ctx, &diskmapper.StatusRequest{}); err != nil || status.Open != nil {
		t.Errorf("status of a closed disk: %v, %v", status, err)
	}

	// The next boots.
	wrong := newKey()
	_, err = client.Open(ctx, s.conn, wrong, nil, c)
	wantProblem(t, err, diskmapper.Problem_REASON_HEADER, "unauthentic")
	_, err = client.Open(ctx, s.conn, key, &diskmapper.Format{Uuid: disk.NewUUID()}, c)
	wantProblem(t, err, diskmapper.Problem_REASON_HOLDS_SOMETHING, "")
	next := newKey()
	if _, err := s.Rekey(ctx, &diskmapper.RekeyRequest{OldKey: bytes.Clone(key), NewKey: bytes.Clone(next)}); err != nil {
		t.Fatal(err)
	}
	_, err = client.Open(ctx, s.conn, key, nil, c)
	wantProblem(t, err, diskmapper.Problem_REASON_HEADER, "unauthentic")
	if _, err = client.Open(ctx, s.conn, next, nil, c); err != nil || c.known.Number != 2 {
		t.Errorf("the second boot: %v, generation %d", err, c.known.Number)
	}
	shut(t)

	t.Run("V14: the cluster knows a later generation", func(t *testing.T) {
		later := &cluster{known: c.known.After()}
		_, err := client.Open(ctx, s.conn, next, nil, later)
		wantProblem(t, err, diskmapper.Problem_REASON_ROLLED_BACK, "")
		if p := client.ProblemOf(err); p.GetDisk().GetNumber() != 2 || p.GetKnown().GetNumber() != 3 {
			t.Errorf("the problem is %v", p)
		}
		if volume, err := disk.Current(); volume != nil || err != nil {
			t.Errorf("a refused disk is open: %v, %v", volume, err)
		}
	})
	t.Run("the cluster cannot say", func(t *testing.T) {
		_, err := client.Open(ctx, s.conn, next, nil, silent{})
		if !errors.Is(err, errSilent) {
			t.Errorf("got %v", err)
		}
		if volume, err := disk.Current(); volume != nil || err != nil {
			t.Errorf("the disk is open: %v, %v", volume, err)
		}
	})
	t.Run("no secret is logged", func(t *testing.T) {
		for _, secret := range [][]byte{key, next, wrong} {
			for _, written := range []string{
				string(secret), fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), fmt.Sprintf("%q", secret), fmt.Sprint(secret),
				base64.StdEncoding.EncodeToString(secret),
			} {
				if strings.Contains(s.log.String(), written) {
					t.Errorf("a key is in the log, written as %.6s…", written)
				}
			}
		}
		for _, want := range []string{
			"formatting the state disk", "the state disk is open", "stays closed", uuid,
			"the caller left without saying what the cluster knows",
		} {
			if err := guesttest.Eventually(10*time.Second, func() error {
				if !strings.Contains(s.log.String(), want) {
					return errors.New("it is not there")
				}
				return nil
			}); err != nil {
				t.Errorf("the log does not say %q: %v\n%s", want, err, s.log)
			}
		}
	})
}

var errSilent = errors.New("nobody answers")

type silent struct{}

func (silent) Advance(context.Context, string, disk.Generation, disk.Generation) error {
	return errSilent
}

func TestRequestsAreChecked(t *testing.T) {
	ctx, s := t.Context(), start(t, Serial)
	refused := func(err error, message string) {
		t.Helper()
		wantProblem(t, err, diskmapper.Problem_REASON_REQUEST, "")
		if err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("got %v, want %q in it", err, message)
		}
	}
	open := func(key []byte, format *diskmapper.Format) error {
		_, err := client.Open(ctx, s.conn, key, format, disk.Unwitnessed())
		return err
	}
	refused(open(make([]byte, 31), nil), "the key must have 32 bytes")
	refused(open(make([]byte, disk.KeySize), nil), "the key is zero")
	refused(open(newKey(), &diskmapper.Format{Uuid: "../state", Take: true}), "must be a UUID")
	refused(open(newKey(), &diskmapper.Format{}), "must be a UUID")
	key := newKey()
	rekey := func(old, next []byte) error {
		_, err := s.Rekey(ctx, &diskmapper.RekeyRequest{OldKey: bytes.Clone(old), NewKey: bytes.Clone(next)})
		return err
	}
	refused(rekey(key, nil), "the new key must have 32 bytes")
	refused(rekey(make([]byte, disk.KeySize), key), "the old key is zero")
	refused(rekey(key, key), "the new key is the old one")
	stream, err := s.Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&diskmapper.OpenRequest{}); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	refused(err, "the first message must be Start")
	if stream, err = s.Open(ctx); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	refused(err, "the first message must be Start")
	if _, err := s.Inspect(ctx, &diskmapper.InspectRequest{}); err != nil {
		t.Errorf("after refused calls the disk cannot be looked at: %v", err)
	}
}

// leaving is a witness whose caller goes away when it is asked.
type leaving struct{ leave func() }

func (l leaving) Advance(ctx context.Context, _ string, _, _ disk.Generation) error {
	l.leave()
	<-ctx.Done()
	return ctx.Err()
}

// TestCallersLeaveAndCollide: a caller that goes away in the middle leaves a disk that the next one opens; while one is at
// work the others are told to come again.
func TestCallersLeaveAndCollide(t *testing.T) {
	s, key := start(t, Serial), newKey()
	if _, err := client.Open(t.Context(), s.conn, key, &diskmapper.Format{Uuid: disk.NewUUID(), Take: true}, disk.Unwitnessed()); err != nil {
		t.Fatal(err)
	}
	shut(t)
	ctx, leave := context.WithCancel(t.Context())
	_, err := client.Open(ctx, s.conn, key, nil, leaving{func() {
		inspect := func() error { _, err := s.Inspect(t.Context(), &diskmapper.InspectRequest{}); return err }
		grow := func() error { _, err := s.Grow(t.Context(), &diskmapper.GrowRequest{}); return err }
		open := func() error {
			_, err := client.Open(t.Context(), s.conn, key, nil, disk.Unwitnessed())
			return err
		}
		var calls sync.WaitGroup
		for _, call := range []func() error{inspect, grow, open} {
			calls.Go(func() { wantProblem(t, call(), diskmapper.Problem_REASON_BUSY, "") })
		}
		calls.Wait()
		leave()
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the caller that left got %v", err)
	}
	retry(t, func() error {
		_, err := client.Open(t.Context(), s.conn, key, nil, disk.Unwitnessed())
		return err
	})
	shut(t)

	// The same while the file system is made.
	ctx, leave = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer leave()
	if _, err := client.Open(ctx, s.conn, key, &diskmapper.Format{Uuid: disk.NewUUID(), Take: true}, disk.Unwitnessed()); err == nil {
		t.Fatal("formatting took no time")
	}
	retry(t, func() error {
		_, err := client.Open(t.Context(), s.conn, key, &diskmapper.Format{Uuid: disk.NewUUID()}, disk.Unwitnessed())
		return err
	})
	shut(t)
}

// retry calls again while the service is busy, for as long as that may take.
func retry(t *testing.T, call func() error) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := call()
		if client.ProblemOf(err).GetReason() == diskmapper.Problem_REASON_BUSY && time.Now().Before(deadline) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
}

func TestNoDisk(t *testing.T) {
	s := start(t, "another-serial")
	_, err := s.Inspect(t.Context(), &diskmapper.InspectRequest{})
	wantProblem(t, err, diskmapper.Problem_REASON_NO_DISK, "")
	if err == nil || !strings.Contains(err.Error(), `"another-serial"`) {
		t.Errorf("the message does not say what was looked for: %v", err)
	}
}
