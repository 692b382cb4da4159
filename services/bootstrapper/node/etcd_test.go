// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// etcdHost is one control plane's etcd on loopback.
type etcdHost struct {
	t                        *testing.T
	root, data, client, peer string
	process                  *exec.Cmd
}

func newHost(t *testing.T, root string) *etcdHost {
	return &etcdHost{t: t, root: root, data: t.TempDir(), client: freePort(t), peer: freePort(t)}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// run starts etcd with kubeadm's flags.
func (h *etcdHost) run(name, members, state string) {
	h.t.Helper()
	pki := filepath.Join(h.root, kubernetesFolder, "pki/etcd")
	h.process = exec.Command(os.Getenv("CONSTELLATION_ETCD"), "--name="+name, "--data-dir="+h.data, "--log-level=error",
		"--listen-client-urls=https://127.0.0.1:"+h.client, "--advertise-client-urls=https://127.0.0.1:"+h.client,
		"--listen-peer-urls=https://127.0.0.1:"+h.peer, "--initial-advertise-peer-urls=https://127.0.0.1:"+h.peer,
		"--initial-cluster="+members, "--initial-cluster-state="+state, "--unsafe-no-fsync", "--tls-min-version=TLS1.3",
		"--cert-file="+pki+"/server.crt", "--key-file="+pki+"/server.key", "--trusted-ca-file="+pki+"/ca.crt", "--client-cert-auth=true",
		"--peer-cert-file="+pki+"/server.crt", "--peer-key-file="+pki+"/server.key", "--peer-trusted-ca-file="+pki+"/ca.crt", "--peer-client-cert-auth=true")
	h.process.Stderr = os.Stderr
	h.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := h.process.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(h.stop)
}

func (h *etcdHost) stop() {
	if h.process != nil {
		h.process.Process.Kill()
		h.process.Wait()
		h.process = nil
	}
}

// view is etcd as this host's bootstrapper sees it, by the others.
func (h *etcdHost) view(name string, others ...*etcdHost) *Etcd {
	e := &Etcd{Root: h.root, Node: name, Address: func() (netip.Addr, error) { return netip.MustParseAddr("127.0.0.1"), nil }, peerPort: h.peer}
	for _, o := range others {
		e.Others = append(e.Others, "127.0.0.1:"+o.client)
	}
	return e
}

// TestRealEtcd: a second member is announced, again after a cut, learns, and votes; one
// that has lost its data is announced anew.
func TestRealEtcd(t *testing.T) {
	root := t.TempDir()
	writeEtcdPKI(t, filepath.Join(root, kubernetesFolder, "pki/etcd"))
	one, two, gone := newHost(t, root), newHost(t, root), newHost(t, root)
	first := "one=https://127.0.0.1:" + one.peer
	one.run("one", first, "new")
	e := two.view("two", gone, one)
	var members string
	eventually(t, func() (err error) { members, err = e.Announce(t.Context()); return err })
	want := first + ",two=https://127.0.0.1:" + two.peer
	if members != want {
		t.Fatalf("members are %s, want %s", members, want)
	}
	if members, err := e.Announce(t.Context()); err != nil || members != want {
		t.Errorf("again: %s, %v", members, err)
	}
	if err := e.Promote(t.Context()); err == nil || !strings.Contains(err.Error(), "has not started") {
		t.Errorf("promoted before it runs: %v", err)
	}
	two.run("two", members, "existing")
	eventually(t, func() error { return e.Promote(t.Context()) })
	if err := e.Promote(t.Context()); err != nil {
		t.Errorf("promoted again: %v", err)
	}
	three := newHost(t, root)
	if err := three.view("three", one).Promote(t.Context()); err == nil || !strings.Contains(err.Error(), "this node is no member") {
		t.Errorf("promoted without being a member: %v", err)
	}

	// A third one, so that there is a majority without the second, which loses its disk.
	third := three.view("three", one, two)
	eventually(t, func() (err error) { members, err = third.Announce(t.Context()); return err })
	three.run("three", members, "existing")
	eventually(t, func() error { return third.Promote(t.Context()) })
	two.stop()
	two.data = t.TempDir()
	eventually(t, func() (err error) { members, err = e.Announce(t.Context()); return err })
	two.run("two", members, "existing")
	eventually(t, func() error { return e.Promote(t.Context()) })

	// The third one goes. It would not if the two that stay were not both there.
	mine := one.view("one", one)
	two.stop()
	if err := mine.Remove(t.Context(), "three", "127.0.0.1"); err == nil || !strings.Contains(err.Error(), "unhealthy cluster") {
		t.Errorf("removed, and one of two is left: %v", err)
	}
	two.run("two", members, "existing")
	eventually(t, func() error { return mine.Remove(t.Context(), "three", "127.0.0.1") })
	if err := mine.Remove(t.Context(), "three", "127.0.0.1"); err != nil {
		t.Errorf("removed again: %v", err)
	}
	wantMembers(t, mine, "one", "two")

	// One that was announced and never started is known by its address alone.
	if _, err := newHost(t, root).view("four", one).Announce(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantMembers(t, mine, "", "one", "two")
	if err := mine.Remove(t.Context(), "four", "127.0.0.2"); err != nil {
		t.Errorf("at another address: %v", err)
	}
	wantMembers(t, mine, "", "one", "two")
	if err := mine.Remove(t.Context(), "four", "127.0.0.1"); err != nil {
		t.Error(err)
	}
	wantMembers(t, mine, "one", "two")
}

func wantMembers(t *testing.T, e *Etcd, want ...string) {
	t.Helper()
	members, err := e.list(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range members {
		names = append(names, m.Name)
	}
	if slices.Sort(names); !slices.Equal(names, want) {
		t.Errorf("members are %q, want %q", names, want)
	}
}

func eventually(t *testing.T, do func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if err = do(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

func writeEtcdPKI(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var ca *x509.Certificate
	var caKey *ecdsa.PrivateKey
	for _, name := range []string{"ca", "server"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
			IsCA: name == "ca", BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}
		if name == "ca" {
			ca, caKey, template.ExtKeyUsage = template, key, nil
		}
		der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		for ext, block := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: private}} {
			if err := os.WriteFile(filepath.Join(dir, name+ext), pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}
