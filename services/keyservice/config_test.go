// SPDX-License-Identifier: Apache-2.0

package keyservice

import (
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/kubernetes/controlplanetest"
)

const goodConfig = `{
  "listen": ":9443", "http": ":9080", "certificate": "/c", "private_key": "/k",
  "grants": [{"service_account": "kube-system/joinservice", "purposes": ["state-disk"]}],
  "limits": {"caller_rate": 5},
  "master_secret": "/m"
}`

func TestLoadConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	load := func(text string) (*Config, error) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return LoadConfig(path)
	}
	c, err := load(goodConfig)
	if err != nil {
		t.Fatal(err)
	}
	if c.Audience != DefaultAudience || c.Limits.CallerRate != 5 || c.Limits.CallerBurst != DefaultLimits().CallerBurst || c.MasterSecret != "/m" {
		t.Errorf("read as %+v", c)
	}
	for change, says := range map[string]string{
		`"listen": ":9443",→`:                     "listen is missing",
		`"certificate": "/c",→`:                   "certificate is missing",
		`"caller_rate": 5→"caller_rate": 0`:       "limits must be positive",
		`"caller_rate": 5→"caller_burst": -1`:     "limits must be positive",
		`"master_secret": "/m"→"audience": ""`:    "audience is missing",
		`"master_secret": "/m"→"audience": "x"`:   "exactly one of",
		`"http"→"htp"`:                            `unknown field "htp"`,
		`["state-disk"]→["*"]`:                    `purpose "*" is not one of`,
		`["state-disk"]→[]`:                       "no purposes for",
		`kube-system/joinservice→joinservice`:     "is not NAMESPACE/NAME",
		`kube-system/joinservice→*/joinservice`:   "is not NAMESPACE/NAME",
		`kube-system/joinservice→kube-system/a/b`: "is not NAMESPACE/NAME",
		`{"service_account": "kube-system/joinservice", "purposes": ["state-disk"]}→`:   "without any, nobody gets a key",
		`}]→}, {"service_account": "kube-system/joinservice", "purposes": ["ssh-ca"]}]`: "is there twice",
	} {
		from, to, _ := strings.Cut(change, "→")
		if !strings.Contains(goodConfig, from) {
			t.Fatalf("%q is not in the configuration", from)
		}
		_, err := load(strings.Replace(goodConfig, from, to, 1))
		if keys.ClassOf(err) != keys.ClassInvalid || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want it to say %q", change, err, says)
		}
	}
}

func TestZeroPolicyDenies(t *testing.T) {
	for _, p := range keys.Purposes() {
		if (&Policy{}).Allows(joinService, p) {
			t.Errorf("%s is allowed", p)
		}
	}
}

// TestCertificateIsRenewed while the service runs, and only by a pair that fits.
func TestCertificateIsRenewed(t *testing.T) {
	pki := controlplanetest.NewPKI(t, t.TempDir())
	certFile, keyFile := pki.Issue(t, "keyservice", "old.example")
	c, err := newCertificate(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	name := func() string {
		t.Helper()
		c.checked = time.Time{} // as if some time had passed
		pair, err := c.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return cert.DNSNames[0]
	}
	if got := name(); got != "old.example" {
		t.Errorf("certificate for %s", got)
	}
	oldKey, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	pki.Issue(t, "keyservice", "new.example")
	newKey, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Minute)
	if err := os.Chtimes(certFile, later, later); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keyFile, oldKey, 0o600); err != nil {
		t.Fatal(err)
	}
	var log safeBuffer
	usual := slog.Default()
	slog.SetDefault(slog.New(slog.NewJSONHandler(&log, nil)))
	got := name()
	slog.SetDefault(usual)
	if got != "old.example" {
		t.Errorf("with a key that does not fit: certificate for %s", got)
	}
	if !strings.Contains(log.String(), "private key does not match public key") || !strings.Contains(log.String(), `"expires":`) {
		t.Errorf("logged: %s", &log)
	}
	if err := os.WriteFile(keyFile, newKey, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := name(); got != "new.example" {
		t.Errorf("after the renewal: certificate for %s", got)
	}
}
