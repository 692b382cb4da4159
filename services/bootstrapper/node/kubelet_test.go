// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/constellation-os/constellation/services/bootstrapper/steps"
)

// issue makes credentials with a certificate of an authority for them alone.
func issue(t *testing.T, root string) *KubeletCredentials {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:worker-1"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 0, 30), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &KubeletCredentials{
		Root: root, Endpoint: "api.example.org:6443", Certificate: der, Key: key,
		Authority: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
	}
}

// TestKubeletCredentials: kubelet finds what was issued, and can renew it; what comes
// next time takes its place.
func TestKubeletCredentials(t *testing.T) {
	root := t.TempDir()
	k := issue(t, root)
	if outcome, err := k.Install(); err != nil || outcome != steps.Done {
		t.Fatal(outcome, err)
	}
	config, err := clientcmd.LoadFromFile(filepath.Join(root, kubeletConfig))
	if err != nil {
		t.Fatal(err)
	}
	context := config.Contexts[config.CurrentContext]
	cluster, user := config.Clusters[context.Cluster], config.AuthInfos[context.AuthInfo]
	if cluster.Server != "https://api.example.org:6443" || !bytes.Equal(cluster.CertificateAuthorityData, k.Authority) || user.ClientCertificate != currentPair || user.ClientKey != currentPair {
		t.Errorf("kubelet.conf is %+v, %+v", cluster, user)
	}
	if ca, err := os.ReadFile(filepath.Join(root, authorityCert)); err != nil || !bytes.Equal(ca, k.Authority) {
		t.Errorf("the authority is %s, %v", ca, err)
	}
	for _, path := range []string{issuedPair, kubeletConfig} {
		if info, err := os.Stat(filepath.Join(root, path)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}

	current := func() []byte {
		t.Helper()
		pair, err := tls.LoadX509KeyPair(filepath.Join(root, currentPair), filepath.Join(root, currentPair))
		if err != nil {
			t.Fatal(err)
		}
		return pair.Certificate[0]
	}
	if !bytes.Equal(current(), k.Certificate) {
		t.Error("kubelet has another certificate")
	}
	// kubelet refuses to renew a pair that is not a link (client-go, util/certificate).
	if info, err := os.Lstat(filepath.Join(root, currentPair)); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the current pair is %v, %v", info, err)
	}
	renewed := issue(t, root)
	pair, err := renewed.pair()
	if err != nil {
		t.Fatal(err)
	}
	newest := filepath.Join(root, kubeletPKI, "kubelet-client-2027-01-01-00-00-00.pem")
	if err := errors.Join(os.WriteFile(newest, pair, 0o600), os.Remove(filepath.Join(root, currentPair)), os.Symlink(newest, filepath.Join(root, currentPair))); err != nil {
		t.Fatal(err)
	}

	without := *k
	without.Certificate, without.Key = nil, nil
	if outcome, err := without.Install(); err != nil || outcome != steps.Skipped || !bytes.Equal(current(), renewed.Certificate) {
		t.Errorf("without a new one: %v, %v", outcome, err)
	}
	next := issue(t, root)
	if outcome, err := next.Install(); err != nil || outcome != steps.Done || !bytes.Equal(current(), next.Certificate) {
		t.Errorf("with the next: %v, %v", outcome, err)
	}
	if outcome, err := next.Install(); err != nil || outcome != steps.Skipped {
		t.Errorf("the same again: %v, %v", outcome, err)
	}
}

func TestKubeletWithoutCredentials(t *testing.T) {
	k := &KubeletCredentials{Root: t.TempDir()}
	if _, err := k.Install(); err == nil || !strings.Contains(err.Error(), "there is no new certificate, and what is there cannot be used") {
		t.Errorf("got %v", err)
	}
}

// TestRenewable: what kubeadm has written into kubelet's configuration is where kubelet
// can renew it; a configuration without a certificate of its own is refused.
func TestRenewable(t *testing.T) {
	root := t.TempDir()
	issued := issue(t, root)
	pair, err := issued.pair()
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, _ := bytes.Cut(pair, []byte("-----BEGIN PRIVATE KEY"))
	key = append([]byte("-----BEGIN PRIVATE KEY"), key...)
	config := func(certificate, key []byte) {
		t.Helper()
		content, err := clientcmd.Write(clientcmdapi.Config{
			Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: "https://api.example.org:6443", CertificateAuthorityData: issued.Authority}},
			AuthInfos:      map[string]*clientcmdapi.AuthInfo{"system:node:control-plane-1": {ClientCertificateData: certificate, ClientKeyData: key}},
			Contexts:       map[string]*clientcmdapi.Context{"k": {Cluster: "c", AuthInfo: "system:node:control-plane-1"}},
			CurrentContext: "k",
		})
		if err == nil {
			_, err = Files(root).Write(kubeletConfig, content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	k := &Kubernetes{Root: root, Now: time.Now}
	config(nil, nil)
	if err := k.Renewable(); err == nil || !strings.Contains(err.Error(), "user system:node:control-plane-1") {
		t.Errorf("without a certificate: %v", err)
	}

	config(certificate, key)
	if err := k.Renewable(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, kubeletConfig)
	text, err := os.ReadFile(path)
	if err != nil || bytes.Contains(text, []byte("client-key-data")) {
		t.Errorf("the key is still in kubelet.conf, %v", err)
	}
	got, err := clientcmd.LoadFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if user := got.AuthInfos["system:node:control-plane-1"]; user.ClientCertificate != currentPair || user.ClientKey != currentPair {
		t.Errorf("kubelet.conf names %q and %q", user.ClientCertificate, user.ClientKey)
	}
	if cluster := got.Clusters["c"]; cluster.Server != "https://api.example.org:6443" || !bytes.Equal(cluster.CertificateAuthorityData, issued.Authority) {
		t.Errorf("kubelet.conf has %+v", cluster)
	}
	current, err := tls.LoadX509KeyPair(filepath.Join(root, currentPair), filepath.Join(root, currentPair))
	if err != nil || !bytes.Equal(current.Certificate[0], issued.Certificate) {
		t.Errorf("the current pair is another, %v", err)
	}
}
