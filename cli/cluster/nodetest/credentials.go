// SPDX-License-Identifier: Apache-2.0

package nodetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"
)

// Credentials are those of a cluster's administrator and of its API server, of one
// authority.
type Credentials struct {
	// Kubeconfig is the administrator's.
	Kubeconfig []byte
	// Authority, Certificate and Key are in PEM; the latter are the API server's, at
	// 127.0.0.1.
	Authority, Certificate, Key []byte
}

var (
	credentialsMu sync.Mutex
	credentials   = map[string]*Credentials{}
)

// Kubeconfig is that of a cluster whose authority is the same for the same name.
func Kubeconfig(name string) []byte { return CredentialsOf(name).Kubeconfig }

// CredentialsOf are those of a cluster. The same name has the same.
func CredentialsOf(name string) *Credentials {
	credentialsMu.Lock()
	defer credentialsMu.Unlock()
	if credentials[name] == nil {
		credentials[name] = newCredentials(name)
	}
	return credentials[name]
}

func newCredentials(name string) *Credentials {
	ca := newPair(name, nil)
	server := newPair("kube-apiserver", ca)
	admin := newPair("kubernetes-admin", ca)
	encode := base64.StdEncoding.EncodeToString
	return &Credentials{
		Authority: ca.certificatePEM(), Certificate: server.certificatePEM(), Key: server.keyPEM(),
		Kubeconfig: fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: kubernetes
  cluster:
    server: https://api.constellation.internal:6443
    certificate-authority-data: %s
users:
- name: kubernetes-admin
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: kubernetes-admin@kubernetes
  context: {cluster: kubernetes, user: kubernetes-admin}
current-context: kubernetes-admin@kubernetes
`, encode(ca.certificatePEM()), encode(admin.certificatePEM()), encode(admin.keyPEM())),
	}
}

// pair is a key with its certificate.
type pair struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
}

// newPair makes one that an authority signed, or an authority.
func newPair(name string, authority *pair) *pair {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true,
	}
	p := &pair{key: key}
	if authority == nil {
		template.IsCA, authority = true, &pair{key, template}
	} else {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, authority.certificate, key.Public(), authority.key)
	if err != nil {
		panic(err)
	}
	if p.certificate, err = x509.ParseCertificate(der); err != nil {
		panic(err)
	}
	return p
}

func (p *pair) certificatePEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.certificate.Raw})
}

func (p *pair) keyPEM() []byte {
	der, err := x509.MarshalECPrivateKey(p.key)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

// Certificate is that of some authority, in PEM.
func Certificate() []byte { return newPair("authority", nil).certificatePEM() }
