// SPDX-License-Identifier: Apache-2.0

package join

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// What kubelet is called as a client of the API server (Kubernetes' Node authorizer).
const (
	nodesGroup = "system:nodes"
	nodePrefix = "system:node:"
)

// certificateRequest makes a key, and a request for kubelet's certificate of it.
func certificateRequest(name string) (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{Organization: []string{nodesGroup}, CommonName: nodePrefix + name},
	}, key)
	return key, request, err
}

// checkCertificate wants a certificate of the cluster's authority for this node and its
// key, or none.
func (t *Ticket) checkCertificate() error {
	authority, err := parsePEM(t.Parameters.GetAuthority())
	if err != nil {
		return fmt.Errorf("its authority: %w", err)
	}
	if len(t.Certificate) == 0 {
		t.Key = nil
		if t.Disk.Fresh {
			return errors.New("it has no certificate")
		}
		return nil
	}
	certificate, err := x509.ParseCertificate(t.Certificate)
	if err != nil {
		return fmt.Errorf("its certificate: %w", err)
	}
	switch {
	case !t.Key.PublicKey.Equal(certificate.PublicKey):
		return errors.New("its certificate is of another key")
	case certificate.Subject.CommonName != nodePrefix+t.Name:
		return errors.New("its certificate is another node's")
	}
	if err := certificate.CheckSignatureFrom(authority); err != nil {
		return fmt.Errorf("its certificate: %w", err)
	}
	return nil
}

// checkClock wants this machine to be able to believe the cluster's authority now. Whose
// clock is so wrong that it does not would become a node that trusts no API server, once
// its disk is formatted and all components are there.
func (t *Ticket) checkClock(now time.Time) error {
	authority, err := parsePEM(t.Parameters.GetAuthority())
	if err != nil {
		return fmt.Errorf("its authority: %w", err)
	}
	if now.Before(authority.NotBefore) || now.After(authority.NotAfter) {
		return fmt.Errorf("the cluster's authority is valid from %s to %s, and by this machine's clock it is %s: one of them is wrong",
			authority.NotBefore.UTC().Format(time.RFC3339), authority.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

func parsePEM(data []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" || len(rest) != 0 {
		return nil, errors.New("want one certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}
