// SPDX-License-Identifier: Apache-2.0

package atls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"fmt"
	"math/big"
	"time"

	"github.com/constellation-os/constellation/attestation"
)

// Values of docs/atls.md, sections 2 and 5.
const (
	alpn          = "constellation-atls/1"
	exporterLabel = "EXPORTER-constellation-atls-v1"
	exporterSize  = 32
	bindingLabel  = "constellation atls binding v1"
)

// ephemeralCertificate makes a key for one connection. Nobody verifies the
// certificate: what the peer is, its evidence says.
func ephemeralCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "ephemeral"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280, section 4.1.2.5
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// tlsConfig is for one connection. Sessions are never resumed: a resumed one
// would not have been attested anew.
func tlsConfig(r role, certificate func() (tls.Certificate, error)) (*tls.Config, error) {
	c := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		NextProtos:             []string{alpn},
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768, tls.X25519},
		SessionTicketsDisabled: true,
	}
	if r == client {
		// The certificate says nothing, see ephemeralCertificate.
		c.InsecureSkipVerify = true
		return c, nil
	}
	cert, err := certificate()
	if err != nil {
		return nil, fmt.Errorf("make an ephemeral certificate: %w", err)
	}
	c.Certificates = []tls.Certificate{cert}
	return c, nil
}

// exporter returns the connection's exported secret after checking that the
// connection is one to which evidence can be bound.
func exporter(s tls.ConnectionState) ([]byte, error) {
	if !s.HandshakeComplete || s.Version != tls.VersionTLS13 || s.DidResume || s.NegotiatedProtocol != alpn {
		return nil, attestation.Refuse(attestation.ReasonChannel, "not a fresh TLS 1.3 connection for %q", alpn)
	}
	e, err := s.ExportKeyingMaterial(exporterLabel, nil, exporterSize)
	if err != nil {
		return nil, attestation.Refuse(attestation.ReasonChannel, "exporter: %w", err)
	}
	return e, nil
}

// binding is what a prover in that role makes evidence over.
func binding(exporter []byte, clientNonce, serverNonce nonce, prover role, version uint16) attestation.Binding {
	h := sha512.New()
	h.Write([]byte(bindingLabel))
	h.Write(exporter)
	h.Write(clientNonce[:])
	h.Write(serverNonce[:])
	h.Write([]byte{byte(prover)})
	h.Write(binary.BigEndian.AppendUint16(nil, version))
	return attestation.Binding(h.Sum(nil))
}
