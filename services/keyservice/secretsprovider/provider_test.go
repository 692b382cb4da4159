// SPDX-License-Identifier: Apache-2.0

package secretsprovider

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	kmsapi "k8s.io/kms/apis/v2"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/managed"
	"github.com/constellation-os/constellation/keys/managedtest"
	"github.com/constellation-os/constellation/keys/mode"
)

type source struct{ *keys.Keyring }

func (source) Health(context.Context) error { return nil }

// connect serves a cipher on a socket and returns a client, and what was logged.
func connect(t *testing.T, c Cipher) (kmsapi.KeyManagementServiceClient, *bytes.Buffer) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kms.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- New(c, slog.New(slog.NewJSONHandler(&log, nil))).Serve(ctx, l) }()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return kmsapi.NewKeyManagementServiceClient(conn), &log
}

// ciphers makes one of each kind, and rotates it.
func ciphers() map[string]func() (before, after Cipher) {
	return map[string]func() (Cipher, Cipher){
		"hierarchy": func() (Cipher, Cipher) {
			ring := keys.Generate()
			data, _ := ring.Marshal()
			rotated, _ := keys.Parse(data)
			rotated.Rotate()
			return Hierarchy(source{ring}), Hierarchy(source{rotated})
		},
		"user-managed": func() (Cipher, Cipher) {
			one, two := managedtest.NewKMS(), managedtest.NewKMS()
			salt := bytes.Repeat([]byte("salt"), 8)
			return Managed(salt, map[keys.Version]managed.KMS{1: one}), Managed(salt, map[keys.Version]managed.KMS{1: one, 2: two})
		},
	}
}

func TestProvider(t *testing.T) {
	for name, make := range ciphers() {
		t.Run(name, func(t *testing.T) {
			before, after := make()
			client, log := connect(t, before)
			rotated, _ := connect(t, after)
			st, err := client.Status(t.Context(), &kmsapi.StatusRequest{})
			if err != nil || st.Version != "v2" || st.Healthz != "ok" || st.KeyId == "" || len(st.KeyId) > 1024 {
				t.Fatalf("status %v, %v", st, err)
			}
			seed := []byte("a seed of the API server, 32 B..")
			sealed, err := client.Encrypt(t.Context(), &kmsapi.EncryptRequest{Plaintext: seed, Uid: "1"})
			if err != nil || sealed.KeyId != st.KeyId || bytes.Contains(sealed.Ciphertext, seed[:8]) || len(sealed.Ciphertext) > 1024 {
				t.Fatalf("encrypted to %v, %v", sealed, err)
			}
			for _, c := range []kmsapi.KeyManagementServiceClient{client, rotated} {
				got, err := c.Decrypt(t.Context(), &kmsapi.DecryptRequest{Ciphertext: sealed.Ciphertext, KeyId: sealed.KeyId})
				if err != nil || !bytes.Equal(got.Plaintext, seed) {
					t.Errorf("decrypted: %v", err)
				}
			}
			st2, err := rotated.Status(t.Context(), &kmsapi.StatusRequest{})
			if err != nil || st2.KeyId == st.KeyId {
				t.Errorf("the rotation cannot be seen: %v, %v", st2, err)
			}
			if strings.Contains(log.String(), string(seed[:8])) {
				t.Errorf("logged: %s", log)
			}

			// What etcd hands back is not trusted.
			changed := bytes.Clone(sealed.Ciphertext)
			changed[len(changed)-1] ^= 1
			own, _ := make()
			foreign, _ := connect(t, own)
			for _, tc := range []struct {
				name       string
				client     kmsapi.KeyManagementServiceClient
				keyID      string
				ciphertext []byte
				class      keys.Class
			}{
				{"a changed ciphertext", client, sealed.KeyId, changed, ""},
				{"no ciphertext", client, sealed.KeyId, nil, ""},
				{"no key", client, "", sealed.Ciphertext, keys.ClassWrongKey},
				{"an unknown key", client, "aws-kms/1/x", sealed.Ciphertext, keys.ClassWrongKey},
				{"version 0", client, strings.Replace(sealed.KeyId, "/1/", "/0/", 1), sealed.Ciphertext, keys.ClassWrongKey},
				{"a version that is not there", client, strings.Replace(sealed.KeyId, "/1/", "/7/", 1), sealed.Ciphertext, keys.ClassVersion},
				{"another version's name", rotated, st2.KeyId, sealed.Ciphertext, ""},
				{"another cluster's key", foreign, sealed.KeyId, sealed.Ciphertext, keys.ClassWrongKey},
			} {
				_, err := tc.client.Decrypt(t.Context(), &kmsapi.DecryptRequest{Ciphertext: tc.ciphertext, KeyId: tc.keyID})
				want := string(tc.class)
				if want == "" { // the two kinds of cipher see it in different places
					want = map[string]string{"hierarchy": "corrupted", "user-managed": "wrong-key"}[name]
				}
				if status.Code(err) != codes.FailedPrecondition || !strings.Contains(status.Convert(err).Message(), want+": ") {
					t.Errorf("%s: got %v, want %s", tc.name, err, want)
				}
			}
			for _, n := range []int{0, maxPlaintext + 1} {
				_, err := client.Encrypt(t.Context(), &kmsapi.EncryptRequest{Plaintext: bytes.Repeat([]byte{1}, n)})
				if status.Code(err) != codes.InvalidArgument {
					t.Errorf("%d bytes: %v", n, err)
				}
			}
		})
	}
}

// TestClustersShareAKMS and yet cannot read each other's Secrets.
func TestClustersShareAKMS(t *testing.T) {
	keks := map[keys.Version]managed.KMS{1: managedtest.NewKMS()}
	one, other := Managed(bytes.Repeat([]byte("salt"), 8), keks), Managed(bytes.Repeat([]byte("pepp"), 8), keks)
	ciphertext, keyID, err := one.Encrypt(t.Context(), []byte("seed"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.Decrypt(t.Context(), keyID, ciphertext)
	if keys.ClassOf(err) != keys.ClassWrongKey || !strings.Contains(err.Error(), "encrypted for another cluster") {
		t.Errorf("by its name: %v", err)
	}
	name, err := other.Newest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err = other.Decrypt(t.Context(), name, ciphertext); keys.ClassOf(err) != keys.ClassWrongKey {
		t.Errorf("under our own name: %v", err)
	}
}

func TestKMSDown(t *testing.T) {
	kms := managedtest.NewKMS()
	kms.Fault = func(context.Context, string) error { return keys.Errorf(keys.ClassUnreachable, "down") }
	client, log := connect(t, Managed(bytes.Repeat([]byte("salt"), 8), map[keys.Version]managed.KMS{1: kms}))
	_, err := client.Status(t.Context(), &kmsapi.StatusRequest{})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "unreachable: down") {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(log.String(), `"reason":"unreachable"`) {
		t.Errorf("logged: %s", log)
	}
}

// TestBrokenFile: the old keys stay in use, and the log says why.
func TestBrokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.json")
	if err := keys.Generate().Create(path); err != nil {
		t.Fatal(err)
	}
	c := &Config{Config: mode.Config{MasterSecret: path}}
	cipher, closeKeys, err := c.Open(t.Context(), managed.Backends{})
	if err != nil {
		t.Fatal(err)
	}
	defer closeKeys()
	client, log := connect(t, cipher)
	if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for !strings.Contains(log.String(), `"msg":"unhealthy"`) || !strings.Contains(log.String(), `"reason":"malformed"`) {
		st, err := client.Status(t.Context(), &kmsapi.StatusRequest{})
		if err != nil || st.Healthz != "ok" {
			t.Fatalf("status %v, %v", st, err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("logged: %s", log)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kms.sock")
	first, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	_, err = Listen(path)
	if keys.ClassOf(err) != keys.ClassExists || !strings.Contains(err.Error(), "another provider answers") {
		t.Errorf("while another listens: %v", err)
	}
	// Killed, a provider leaves its socket behind.
	first.(*net.UnixListener).SetUnlinkOnClose(false)
	first.Close()
	second, err := Listen(path)
	if err != nil {
		t.Errorf("after a crash: %v", err)
	} else {
		second.Close()
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Listen(path)
	if keys.ClassOf(err) != keys.ClassExists || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file in its place: %v", err)
	}
}

// TestListenBesideOneThatHangs: one whose queue of connections is full is not a dead one.
func TestListenBesideOneThatHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kms.sock")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		var conn net.Conn
		if conn, err = net.Dial("unix", path); err == nil {
			defer conn.Close()
		}
	}
	_, err = Listen(path)
	if keys.ClassOf(err) != keys.ClassExists || !errors.Is(err, syscall.EAGAIN) || !strings.Contains(err.Error(), "may be another provider's") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("its socket is gone: %v", err)
	}
}

func TestLoadConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	load := func(text string) error {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadConfig(path)
		return err
	}
	if err := load(`{"socket": "/run/x.sock", "master_secret": "/run/master.json"}`); err != nil {
		t.Error(err)
	}
	for text, says := range map[string]string{
		``:                            "ends early",
		`{"socket": "x.sock"}`:        "not an absolute path",
		`{"socket": "/x"}`:            "exactly one of",
		`{"socket": "/x", "sock": 1}`: `unknown field "sock"`,
		`{"socket": "/x", "master_secret": "/m"} {}`:                                          "something follows",
		`{"socket": "/x", "user_managed": {"salt": "", "keks": [], "store": "kubernetes:x"}}`: "neither a store",
	} {
		if err := load(text); keys.ClassOf(err) != keys.ClassInvalid || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want it to say %q", text, err, says)
		}
	}
	if _, err := LoadConfig(path + ".gone"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}
