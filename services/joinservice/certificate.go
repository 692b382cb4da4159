// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"sync"
	"time"
)

// How long a certificate is valid, at most until the authority expires. Kubelet renews
// it by itself.
const (
	certificateLife = 30 * 24 * time.Hour
	backdated       = 5 * time.Minute // for clocks that are late
)

const (
	maxRequestSize = 8 << 10 // of a certificate request, in bytes
	minRSABits     = 2048
	minCurveBits   = 256
	nodesGroup     = "system:nodes"
	nodePrefix     = "system:node:"
)

// authorityPause is how often the authority's files are looked at, at most.
const authorityPause = 10 * time.Second

// Authority is the cluster's, with its key in a file. The files are read again when
// they change.
type Authority struct {
	certFile, keyFile string

	mu       sync.Mutex
	pair     *authority
	modified time.Time
	checked  time.Time
}

type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// NewAuthority reads a certificate and its key, both in PEM.
func NewAuthority(certFile, keyFile string) (*Authority, error) {
	a := &Authority{certFile: certFile, keyFile: keyFile}
	if _, err := a.get(time.Now()); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *Authority) get(now time.Time) (*authority, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pair != nil && now.Sub(a.checked) < authorityPause {
		return a.pair, nil
	}
	info, err := os.Stat(a.certFile)
	if err != nil {
		return nil, fmt.Errorf("the cluster's authority: %w", err)
	}
	if a.pair == nil || !info.ModTime().Equal(a.modified) {
		pair, err := loadAuthority(a.certFile, a.keyFile)
		if err != nil {
			return nil, fmt.Errorf("the cluster's authority: %w", err)
		}
		a.pair, a.modified = pair, info.ModTime()
	}
	a.checked = now
	return a.pair, nil
}

func loadAuthority(certFile, keyFile string) (*authority, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("%s is not of a certificate authority", certFile)
	}
	return &authority{pair.Leaf, key}, nil
}

// pem is the certificate, hash that of its key, as kubeadm writes it.
func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

func (a *authority) hash() string {
	sum := sha256.Sum256(a.certificate.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// sign certifies a node's kubelet as a client, and nothing but that node. Without a
// request there is no certificate.
func (a *authority) sign(der []byte, name string, now time.Time) ([]byte, error) {
	if len(der) == 0 {
		return nil, nil
	}
	r, err := parseRequest(der, name)
	if err != nil {
		return nil, &Error{ReasonCertificate, err}
	}
	return a.certify(r.PublicKey, name, now)
}

// parseRequest reads a request of node name's kubelet.
func parseRequest(der []byte, name string) (*x509.CertificateRequest, error) {
	if len(der) > maxRequestSize {
		return nil, fmt.Errorf("a request of %d bytes, at most %d", len(der), maxRequestSize)
	}
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("not a certificate request: %w", err)
	}
	if err := checkKey(r.PublicKey); err != nil {
		return nil, err
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the request is not signed by its key: %w", err)
	}
	if want := subject(name); r.Subject.ToRDNSequence().String() != want.ToRDNSequence().String() {
		return nil, fmt.Errorf("subject %s, want %s", clip(r.Subject.String()), want)
	}
	if len(r.DNSNames)+len(r.IPAddresses)+len(r.EmailAddresses)+len(r.URIs) > 0 {
		return nil, errors.New("alternative names are requested, and a client has none")
	}
	return r, nil
}

func subject(name string) pkix.Name {
	return pkix.Name{Organization: []string{nodesGroup}, CommonName: nodePrefix + name}
}

func checkKey(key any) error {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize >= minCurveBits {
			return nil
		}
	case *rsa.PublicKey:
		if k.N.BitLen() >= minRSABits {
			return nil
		}
	}
	return fmt.Errorf("the key is none of Ed25519, ECDSA of %d bits, and RSA of %d bits at least", minCurveBits, minRSABits)
}

// certify takes the key, which was checked, from the request. All else is ours.
func (a *authority) certify(key any, name string, now time.Time) ([]byte, error) {
	var serial [16]byte
	rand.Read(serial[:])            // never fails
	serial[0] = serial[0]&0x7f | 64 // positive, and of one length
	template := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial[:]),
		Subject:               subject(name),
		NotBefore:             now.Add(-backdated),
		NotAfter:              now.Add(certificateLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if a.certificate.NotAfter.Before(template.NotAfter) {
		template.NotAfter = a.certificate.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate: %w", err)
	}
	return der, nil
}
