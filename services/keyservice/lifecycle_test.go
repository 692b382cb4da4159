// SPDX-License-Identifier: Apache-2.0

package keyservice

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/managed"
	"github.com/constellation-os/constellation/keys/managedtest"
	api "github.com/constellation-os/constellation/services/api/keyservice"
)

// TestGracefulShutdown: what is under way is answered, what comes later is not.
func TestGracefulShutdown(t *testing.T) {
	source, kms, _ := userManaged(t, managed.DefaultLimits())
	asked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	kms.Fault = func(_ context.Context, op string) error {
		if op == "wrap" {
			once.Do(func() { close(asked) })
			<-release
		}
		return nil
	}
	f := serve(t, source, generous())
	client := f.connect(t)
	answer := make(chan error)
	go func() {
		_, err := client.GetDataKey(as(context.Background(), "join"), request())
		answer <- err
	}()
	<-asked
	stopped := make(chan error)
	go func() { stopped <- f.stop() }()
	for {
		conn, err := net.Dial("tcp", f.Address())
		if err != nil {
			break
		}
		conn.Close()
		time.Sleep(time.Millisecond)
	}
	_, err := f.connect(t).GetDataKey(as(t.Context(), "join"), request())
	if status.Code(err) != codes.Unavailable {
		t.Errorf("a request after the signal: %v", err)
	}
	close(release)
	if err := <-answer; err != nil {
		t.Errorf("the request under way: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestShutdownWipes(t *testing.T) {
	ring := keys.Generate()
	f := serve(t, healthy{ring}, generous())
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := ring.DataKey(t.Context(), keys.PurposeStateDisk, diskID, 32, 0); keys.ClassOf(err) != keys.ClassVersion {
		t.Errorf("keys can still be derived: %v", err)
	}
}

// TestHeapAfterShutdown looks for the master secret in a dump of the heap after
// an orderly end, and counts what is left of the keys that were handed out.
func TestHeapAfterShutdown(t *testing.T) {
	ring := keys.Generate()
	file, err := ring.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var content struct {
		Secrets []struct {
			Secret []byte `json:"secret"`
		} `json:"secrets"`
	}
	if err := json.Unmarshal(file, &content); err != nil {
		t.Fatal(err)
	}
	// What is looked for is kept changed, so that the search does not find itself.
	hide := func(b []byte) []byte {
		out := bytes.Clone(b)
		for i := range out {
			out[i] ^= 0xff
		}
		return out
	}
	master := hide(content.Secrets[0].Secret)
	clear(content.Secrets[0].Secret)
	clear(file)
	f := serve(t, healthy{ring}, generous())
	var handedOut [][]byte
	func() {
		client := f.connect(t)
		for i := range 500 {
			r := request()
			r.Id = fmt.Sprint(i)
			resp, err := client.GetDataKey(as(t.Context(), "join"), r)
			if err != nil {
				t.Fatal(err)
			}
			handedOut = append(handedOut, hide(resp.Key))
			clear(resp.Key)
		}
	}()
	before := dumpHeap(t)
	if n := occurrences(before, master); n == 0 {
		t.Fatal("the master secret is not in the heap of a service that runs: this test looks in the wrong place")
	}
	clear(before)
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	dump := dumpHeap(t)
	if n := occurrences(dump, master); n != 0 {
		t.Errorf("the master secret is in the heap %d times", n)
	}
	left := 0
	for _, key := range handedOut {
		if occurrences(dump, key) > 0 {
			left++
		}
	}
	t.Logf("of %d data keys that were handed out, %d are in the heap (buffers of gRPC, TLS and this test's client)", len(handedOut), left)
}

func occurrences(dump, hidden []byte) int {
	plain := make([]byte, len(hidden))
	for i := range hidden {
		plain[i] = hidden[i] ^ 0xff
	}
	defer clear(plain)
	return bytes.Count(dump, plain)
}

func dumpHeap(t *testing.T) []byte {
	t.Helper()
	for range 3 {
		runtime.GC()
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "heap"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	debug.WriteHeapDump(file.Fd())
	data, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// folderStore is a store in a folder, for a service that is killed. It is what an
// object store is: whole objects, created once.
type folderStore string

func (s folderStore) Get(_ context.Context, name string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(string(s), name))
	if os.IsNotExist(err) {
		return nil, keys.Errorf(keys.ClassMissing, "no such record")
	}
	return data, err
}

func (s folderStore) Create(_ context.Context, name string, record []byte) error {
	temp, err := os.CreateTemp(string(s), ".new")
	if err != nil {
		return err
	}
	if _, err := temp.Write(record); err != nil {
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	err = os.Link(temp.Name(), filepath.Join(string(s), name))
	if os.IsExist(err) {
		return keys.Errorf(keys.ClassExists, "the record exists")
	}
	return err
}

// masterKMS wraps with a key of a master-secret file: it survives its process.
type masterKMS struct{ managed.KMS }

func openMasterKMS(path string) (managed.KMS, error) {
	ring, err := keys.Load(path)
	if err != nil {
		return nil, err
	}
	k, err := ring.DataKey(context.Background(), keys.PurposeRecovery, "kms", 32, 0)
	if err != nil {
		return nil, err
	}
	return masterKMS{managedtest.NewKMSWithKey(k.Secret.Copy())}, nil
}

const killedDir = "KEYSERVICE_TEST_DIR"

// TestHelperProcess is the service that TestKilled kills: it makes keys as fast as
// it can, and prints each when it has it.
func TestHelperProcess(t *testing.T) {
	dir := os.Getenv(killedDir)
	if dir == "" {
		t.Skip("only run by TestKilledMidRequest")
	}
	source := killable(t, dir)
	for i := 0; ; i++ {
		k, err := source.DataKey(t.Context(), keys.PurposeStateDisk, fmt.Sprint(i), 32, 0)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("KEY %d %x\n", i, k.Secret.Copy())
	}
}

func killable(t *testing.T, dir string) *managed.Source {
	t.Helper()
	kms, err := openMasterKMS(filepath.Join(dir, "kms.json"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := managed.NewSource(managed.Config{
		Salt: bytes.Repeat([]byte("salt"), 8), Store: folderStore(filepath.Join(dir, "store")), KEKs: map[keys.Version]managed.KMS{1: kms},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestKilledMidRequest: every key that anybody was given before the process was
// killed is the same afterwards, and the one that was being made can be had.
func TestKilledMidRequest(t *testing.T) {
	dir := t.TempDir()
	if err := keys.Generate().Create(filepath.Join(dir, "kms.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "store"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperProcess$")
	cmd.Env = append(os.Environ(), killedDir+"="+dir)
	out := &safeBuffer{}
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	for strings.Count(out.String(), "\n") < 50 {
		time.Sleep(time.Millisecond)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	source := killable(t, dir)
	printed := out.String()
	lines := strings.Split(strings.TrimSpace(printed[:strings.LastIndex(printed, "\n")]), "\n")
	for i := range len(lines) + 1 {
		k, err := source.DataKey(t.Context(), keys.PurposeStateDisk, fmt.Sprint(i), 32, 0)
		if err != nil {
			t.Fatalf("key %d after the restart: %v", i, err)
		}
		if want := fmt.Sprintf("KEY %d %x", i, k.Secret.Copy()); i < len(lines) && lines[i] != want {
			t.Errorf("key %d is another after the restart", i)
		}
	}
}

// BenchmarkGetDataKey is the whole way: TLS on loopback, authentication from the
// cache, derivation, audit. 64 callers.
func BenchmarkGetDataKey(b *testing.B) {
	f := serve(b, healthy{keys.Generate()}, generous())
	clients := make([]api.KeyServiceClient, 8)
	for i := range clients {
		clients[i] = f.connect(b)
	}
	b.ResetTimer()
	var wg sync.WaitGroup
	work := make(chan struct{}, 64)
	for i := range 64 {
		wg.Go(func() {
			for range work {
				if _, err := clients[i%len(clients)].GetDataKey(as(context.Background(), "join"), request()); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
}
