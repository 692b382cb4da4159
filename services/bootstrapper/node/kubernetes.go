// SPDX-License-Identifier: Apache-2.0

package node

import (
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
	"os"
	"path/filepath"
	"time"

	"github.com/constellation-os/constellation/services/bootstrapper/steps"
)

// Where Kubernetes keeps its files, by its own convention (kubeadm's constants).
const (
	kubernetesFolder = "/etc/kubernetes"
	// ControlPlaneFiles is the folder of what the nodes of a control plane share.
	ControlPlaneFiles = kubernetesFolder + "/pki"
	authorityCert     = kubernetesFolder + "/pki/ca.crt"
	authorityKey      = kubernetesFolder + "/pki/ca.key"
	superAdminConfig  = kubernetesFolder + "/super-admin.conf"
	adminConfig       = kubernetesFolder + "/admin.conf"
)

// KeyService's certificate and key, in memory (kubernetes/manifests/keyservice.yaml).
const (
	keyServiceCert = "/run/constellation/keyservice/tls/tls.crt"
	keyServiceKey  = "/run/constellation/keyservice/tls/tls.key"
)

// keyServiceNames are what KeyService is called in the cluster.
var keyServiceNames = []string{
	"keyservice.kube-system.svc", "keyservice.kube-system.svc.cluster.local", "keyservice.kube-system", "keyservice",
}

// How long a certificate of KeyService is good, and how long it must be good for to be kept.
const (
	certificateLife = 365 * 24 * time.Hour
	certificateRest = certificateLife / 3
)

// Kubernetes are Kubernetes' files on this machine.
type Kubernetes struct {
	// Root is what paths are below: "/", but for tests.
	Root string
	// Now is the time.
	Now func() time.Time
}

// Empty implements steps.KubernetesFiles.
func (k *Kubernetes) Empty() error { return empty(filepath.Join(k.Root, kubernetesFolder)) }

// Admin returns the kubeconfig file of the cluster's administrator.
func (k *Kubernetes) Admin() ([]byte, error) {
	content, err := os.ReadFile(filepath.Join(k.Root, adminConfig))
	if err == nil && len(content) == 0 {
		err = fmt.Errorf("%s is empty", adminConfig)
	}
	return content, err
}

// Certify implements steps.KubernetesFiles.
func (k *Kubernetes) Certify() (steps.Outcome, error) {
	authority, err := tls.LoadX509KeyPair(filepath.Join(k.Root, authorityCert), filepath.Join(k.Root, authorityKey))
	if err != nil {
		return steps.Done, fmt.Errorf("the cluster's authority: %w", err)
	}
	if k.certified(authority.Leaf) {
		return steps.Skipped, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return steps.Done, err
	}
	certificate, err := k.sign(authority, key)
	if err != nil {
		return steps.Done, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return steps.Done, err
	}
	defer clear(der)
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	defer clear(private)
	// KeyService takes a pair only when it fits: between the two it keeps the old one.
	files := Files(k.Root)
	if _, err := files.Write(keyServiceKey, private); err != nil {
		return steps.Done, err
	}
	_, err = files.Write(keyServiceCert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}))
	return steps.Done, err
}

// certified says whether there is a certificate that can be kept.
func (k *Kubernetes) certified(authority *x509.Certificate) bool {
	pair, err := tls.LoadX509KeyPair(filepath.Join(k.Root, keyServiceCert), filepath.Join(k.Root, keyServiceKey))
	if err != nil {
		return false
	}
	for _, name := range keyServiceNames {
		if pair.Leaf.VerifyHostname(name) != nil {
			return false
		}
	}
	return pair.Leaf.CheckSignatureFrom(authority) == nil && pair.Leaf.NotAfter.After(k.Now().Add(certificateRest))
}

func (k *Kubernetes) sign(authority tls.Certificate, key *ecdsa.PrivateKey) ([]byte, error) {
	if !authority.Leaf.IsCA {
		return nil, errors.New("the cluster's authority has a certificate that signs nothing")
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := k.Now()
	return x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)),
		Subject:      pkix.Name{CommonName: "keyservice"},
		DNSNames:     keyServiceNames,
		// Nodes' clocks need not agree to the minute.
		NotBefore:             now.Add(-5 * time.Minute),
		NotAfter:              now.Add(certificateLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}, authority.Leaf, key.Public(), authority.PrivateKey)
}
