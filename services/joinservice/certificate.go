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
	"fmt"
	"math/big"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	api "github.com/constellation-os/constellation/services/api/joinservice"
)

// How long certificates are valid, at most until the authority expires. Kubelet renews
// its client certificate by itself; its serving certificate comes with each boot.
const (
	clientLife  = 30 * 24 * time.Hour
	servingLife = 365 * 24 * time.Hour
	backdated   = 5 * time.Minute // for clocks that are late
)

const (
	maxRequestSize = 8 << 10 // of a certificate request, in bytes
	minRSABits     = 2048
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

// sign certifies a node's kubelet as it requests, and nothing but that node.
func (a *authority) sign(requests *api.CertificateRequests, name, address string, now time.Time) (*api.Certificates, error) {
	out := &api.Certificates{}
	if der := requests.GetClient(); len(der) > 0 {
		r, err := parseRequest(der, name)
		if err != nil {
			return nil, refuse(ReasonCertificate, "client certificate: %w", err)
		}
		if len(r.DNSNames)+len(r.IPAddresses)+len(r.EmailAddresses)+len(r.URIs) > 0 {
			return nil, refuse(ReasonCertificate, "client certificate: alternative names are requested, and there can be none")
		}
		if out.Client, err = a.certify(r, name, x509.ExtKeyUsageClientAuth, clientLife, now); err != nil {
			return nil, err
		}
	}
	if der := requests.GetServing(); len(der) > 0 {
		r, err := parseRequest(der, name)
		if err == nil {
			err = checkServing(r, name, address)
		}
		if err != nil {
			return nil, refuse(ReasonCertificate, "serving certificate: %w", err)
		}
		if out.Serving, err = a.certify(r, name, x509.ExtKeyUsageServerAuth, servingLife, now); err != nil {
			return nil, err
		}
	}
	return out, nil
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
	return r, nil
}

func subject(name string) pkix.Name {
	return pkix.Name{Organization: []string{nodesGroup}, CommonName: nodePrefix + name}
}

func checkKey(key any) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if k.N.BitLen() >= minRSABits {
			return nil
		}
	}
	return fmt.Errorf("the key is none of ECDSA, Ed25519, and RSA of at least %d bits", minRSABits)
}

// checkServing allows the node's name, and the one address that we see it at: what else
// it says of itself nobody has verified.
func checkServing(r *x509.CertificateRequest, name, address string) error {
	if len(r.DNSNames)+len(r.IPAddresses) == 0 || len(r.EmailAddresses)+len(r.URIs) > 0 {
		return fmt.Errorf("alternative names must be the node's name and address")
	}
	for _, n := range r.DNSNames {
		if n != name {
			return fmt.Errorf("for %s, and the node is %s", clip(n), name)
		}
	}
	seen := net.ParseIP(address)
	if i := slices.IndexFunc(r.IPAddresses, func(ip net.IP) bool { return !ip.Equal(seen) }); i >= 0 {
		return fmt.Errorf("for %s, and the node connects from %s", r.IPAddresses[i], address)
	}
	return nil
}

// certify takes the key and the alternative names, which were checked, from the request.
// The subject is ours.
func (a *authority) certify(r *x509.CertificateRequest, name string, usage x509.ExtKeyUsage, life time.Duration, now time.Time) ([]byte, error) {
	var serial [16]byte
	rand.Read(serial[:])            // never fails
	serial[0] = serial[0]&0x7f | 64 // positive, and of one length
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial[:]),
		Subject:      subject(name),
		NotBefore:    now.Add(-backdated),
		NotAfter:     now.Add(life),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{usage},
		DNSNames:     r.DNSNames, IPAddresses: r.IPAddresses,
		BasicConstraintsValid: true,
	}
	if a.certificate.NotAfter.Before(template.NotAfter) {
		template.NotAfter = a.certificate.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, r.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate: %w", err)
	}
	return der, nil
}
