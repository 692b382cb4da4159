// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/constellation-os/constellation/kubernetes/install"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
)

func TestFiles(t *testing.T) {
	root := t.TempDir()
	files, path := Files(root), "/run/constellation/keyservice/master/master-secret.json"
	write := func(content string, want steps.Outcome) {
		t.Helper()
		got, err := files.Write(path, []byte(content))
		if err != nil || got != want {
			t.Fatalf("got %v, %v, want %v", got, err, want)
		}
		if have, err := os.ReadFile(filepath.Join(root, path)); err != nil || string(have) != content {
			t.Fatalf("the file has %q, %v", have, err)
		}
	}
	write("first", steps.Done)
	write("first", steps.Skipped)
	write("second", steps.Done)
	for path, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700, "/run/constellation": 0o700} {
		info, err := os.Stat(filepath.Join(root, path))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
	if err := os.Chmod(filepath.Join(root, path), 0o644); err != nil {
		t.Fatal(err)
	}
	write("second", steps.Skipped)
	if info, err := os.Stat(filepath.Join(root, path)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("a file that others could read stays so: %v, %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(filepath.Join(root, filepath.Dir(path))); err != nil || len(entries) != 1 {
		t.Errorf("there is more than the file: %v, %v", entries, err)
	}
}

func TestEmpty(t *testing.T) {
	k := Kubernetes{Root: t.TempDir(), Now: time.Now}
	if _, err := Files(k.Root).Write("/etc/kubernetes/pki/ca.crt", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := Files(k.Root).Write("/etc/kubernetes/admin.conf", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Admin(); err == nil || !strings.Contains(err.Error(), "admin.conf is empty") {
		t.Errorf("an empty kubeconfig: %v", err)
	}
	if err := k.Empty(); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(filepath.Join(k.Root, "/etc/kubernetes")); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// authority makes the cluster's authority where kubeadm would.
func authority(t *testing.T, root string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for path, content := range map[string][]byte{authorityCert: certificate, authorityKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})} {
		if _, err := Files(root).Write(path, content); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certificate)
	return pool
}

func TestCertify(t *testing.T) {
	now := time.Now()
	k := Kubernetes{Root: t.TempDir(), Now: func() time.Time { return now }}
	if _, err := k.Certify(); err == nil || !strings.Contains(err.Error(), "the cluster's authority") {
		t.Errorf("without an authority: %v", err)
	}
	certify := func(want steps.Outcome, pool *x509.CertPool) {
		t.Helper()
		if got, err := k.Certify(); err != nil || got != want {
			t.Fatalf("got %v, %v, want %v", got, err, want)
		}
		pair, err := tls.LoadX509KeyPair(filepath.Join(k.Root, keyServiceCert), filepath.Join(k.Root, keyServiceKey))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range keyServiceNames {
			if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: name, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	pool := authority(t, k.Root)
	certify(steps.Done, pool)
	certify(steps.Skipped, pool)
	now = now.Add(certificateLife - certificateRest - time.Hour)
	certify(steps.Skipped, pool)
	now = now.Add(2 * time.Hour) // it is renewed in time
	certify(steps.Done, pool)
	certify(steps.Skipped, pool)
	certify(steps.Done, authority(t, k.Root)) // another cluster's
	if err := os.Truncate(filepath.Join(k.Root, keyServiceCert), 0); err != nil {
		t.Fatal(err)
	}
	if got, err := k.Certify(); err != nil || got != steps.Done {
		t.Errorf("a certificate that was cut: %v, %v", got, err)
	}
}

func TestParseState(t *testing.T) {
	for _, tc := range []struct {
		name, shown string
		active      bool
		state       string
	}{
		{"running", "ActiveState=active\nSubState=running\nResult=success\nExecMainStatus=0\nConditionResult=yes\n", true, "active, running"},
		{"failed", "ActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=203\nConditionResult=yes\n", false, "failed, failed, exit-code (status 203)"},
		{"condition", "ActiveState=inactive\nSubState=dead\nResult=success\nExecMainStatus=0\nConditionResult=no\n", false, "inactive, dead, a condition of the unit is not met"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if active, state := parseState(tc.shown); active != tc.active || state != tc.state {
				t.Errorf("got %v, %q", active, state)
			}
		})
	}
}

func TestLastLines(t *testing.T) {
	text := []byte("first\nsecond\nthird\n")
	for size, want := range map[int]string{100: string(text), len(text): string(text), 18: "second\nthird\n", 13: "third\n", 6: "", 0: ""} {
		if got := string(lastLines(text, size)); got != want {
			t.Errorf("%d bytes: %q, want %q", size, got, want)
		}
	}
}

// answering is an API server that answers every question the same way.
func answering(t *testing.T, path string, code int, body string) *Cluster {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != path {
			t.Errorf("asked for %s", r.URL.Path)
		}
		w.WriteHeader(code)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return &Cluster{Node: "node-0", Booted: func() (time.Time, error) { return time.Date(2026, 1, 2, 3, 4, 5, 600e6, time.UTC), nil }, Config: func() (*rest.Config, error) {
		return &rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{CAData: ca}}, nil
	}}
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("got %v, want %q", err, want)
	}
}

func TestReady(t *testing.T) {
	for _, tc := range []struct {
		name string
		code int
		body string
		want string
	}{
		{"ready", 200, "[+]ping ok\nreadyz check passed\n", ""},
		{"two checks", 500, "[+]ping ok\n[-]etcd failed: reason withheld\n[-]informer-sync failed: reason withheld\nreadyz check failed\n", "it is not ready: etcd, informer-sync"},
		{"something else", 401, "{}", "it answers 401"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			wantError(t, answering(t, "/readyz", tc.code, tc.body).Ready(t.Context()), tc.want)
		})
	}
	unreachable := &Cluster{Config: func() (*rest.Config, error) { return &rest.Config{Host: "https://127.0.0.1:1"}, nil }}
	wantError(t, unreachable.Ready(t.Context()), "connection refused")
	none := &Cluster{Config: func() (*rest.Config, error) { return nil, errors.New("no file") }}
	wantError(t, none.Ready(t.Context()), "no file")
}

func TestNodeReady(t *testing.T) {
	for _, tc := range []struct {
		name string
		code int
		body string
		want string
	}{
		{"ready", 200, `{"status":{"conditions":[{"type":"DiskPressure","status":"False"},{"type":"Ready","status":"True","lastHeartbeatTime":"2026-01-02T03:04:06Z"}]}}`, ""},
		{"no network", 200, `{"status":{"conditions":[{"type":"Ready","status":"False","reason":"KubeletNotReady","message":"cni plugin not initialized","lastHeartbeatTime":"2026-01-02T03:04:06Z"}]}}`,
			"KubeletNotReady: cni plugin not initialized"},
		{"ready, before it booted", 200, `{"status":{"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":"2026-01-02T03:04:05Z"}]}}`,
			"kubelet has not reported since the node booted"},
		{"not registered", 404, "{}", "kubelet has not registered it"},
		{"no conditions", 200, "{}", "kubelet has not said whether it is"},
		{"an error", 500, "{}", "the API server answers 500"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			wantError(t, answering(t, "/api/v1/nodes/node-0", tc.code, tc.body).NodeReady(t.Context()), tc.want)
		})
	}
}

// TestBooted: this machine did before now, and always at the same time.
func TestBooted(t *testing.T) {
	a, err := Booted()
	if err != nil || !a.Before(time.Now()) {
		t.Fatalf("%v, %v", a, err)
	}
	if b, err := Booted(); err != nil || b.Sub(a).Abs() > time.Second {
		t.Errorf("%v and then %v, %v", a, b, err)
	}
}

func TestPrograms(t *testing.T) {
	s := Systemd{Systemctl: "/nonexistent/systemctl", Journalctl: "/nonexistent/journalctl"}
	wantError(t, s.Start(t.Context(), "x.service"), "x.service: fork/exec /nonexistent/systemctl: no such file or directory")
	_, err := s.Logs(t.Context(), 100, "x.service")
	wantError(t, err, "read the journal")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = output(ctx, "/bin/sh", "-c", "sleep 10")
	wantError(t, err, "context canceled")
	_, err = output(t.Context(), "/bin/sh", "-c", "echo why >&2; exit 3")
	wantError(t, err, "why: exit status 3")
}

func TestPodLogs(t *testing.T) {
	root := t.TempDir()
	if got := PodLogs(root, 1000); len(got) != 0 {
		t.Errorf("without logs: %q", got)
	}
	for i, name := range []string{"kube-system_etcd_1/etcd/0.log", "kube-system_kube-apiserver_1/kube-apiserver/0.log", "default_secret_1/x/0.log"} {
		path := filepath.Join("/var/log/pods", name)
		if _, err := Files(root).Write(path, []byte(strings.Repeat("an old line\n", 100)+"the last line of "+name+"\n")); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(time.Duration(i) * time.Hour)
		if err := os.Chtimes(filepath.Join(root, path), when, when); err != nil {
			t.Fatal(err)
		}
	}
	got := string(PodLogs(root, 300))
	if len(got) > 300 || strings.Contains(got, "secret") {
		t.Errorf("%d bytes: %s", len(got), got)
	}
	first, second := strings.Index(got, "the last line of kube-system_kube-apiserver"), strings.Index(got, "the last line of kube-system_etcd")
	if first < 0 || second < first || !strings.HasPrefix(got, "-- kube-system_kube-apiserver_1/kube-apiserver/0.log\nan old line\n") {
		t.Errorf("got %s", got)
	}
}

// TestStart: a script stands for systemctl.
func TestStart(t *testing.T) {
	systemctl := func(start, show string) *Systemd {
		path := filepath.Join(t.TempDir(), "systemctl")
		script := "#!/bin/sh\ncase \"$*\" in *' start '*) " + start + ";; *' show '*) printf '" + show + "';; *) exit 1;; esac\n"
		if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		return &Systemd{Systemctl: path}
	}
	// A unit that has run once and was forgotten: systemd knows nothing of its condition.
	ended := `ActiveState=inactive\nSubState=dead\nResult=success\nConditionResult=no\n`
	if err := systemctl("exit 0", ended).Start(t.Context(), "a.service"); err != nil {
		t.Errorf("one that ran once: %v", err)
	}
	failed := `ActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=1\nConditionResult=yes\n`
	wantError(t, systemctl("echo Job for a.service failed. >&2; exit 1", failed).Start(t.Context(), "a.service"),
		"a.service is failed, failed, exit-code (status 1) (Job for a.service failed.: exit status 1)")
}

func TestExplain(t *testing.T) {
	for _, tc := range []struct {
		name   string
		err    error
		advice string
	}{
		{"nothing", nil, ""},
		{"sources", &install.FetchError{Image: "etcd"}, ""},
		{"no sources", install.ErrNoSources, ""},
		{"no space", fmt.Errorf("x: %w", &install.SpaceError{Dir: "/opt", Need: 2, Free: 1}), "larger state disk"},
		{"something else", errors.New("input/output error"), "the same Init again"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := explain(tc.err)
			var f *steps.Failure
			if errors.As(err, &f) != (tc.advice != "") || f != nil && (!strings.Contains(f.Advice, tc.advice) || f.Reason != api.Problem_REASON_STEP) || tc.err != nil && !errors.Is(err, tc.err) {
				t.Errorf("got %v, %+v", err, f)
			}
		})
	}
}
