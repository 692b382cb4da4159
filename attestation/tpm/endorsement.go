// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"time"

	"github.com/constellation-os/constellation/attestation"
)

var (
	// oidEKCertificate is tcg-kp-EKCertificate (TCG EK Credential Profile 2.5,
	// section 3.2.16).
	oidEKCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	// oidSubjectAltName is critical in endorsement certificates, whose subject is
	// empty, and names manufacturer, model and version as a directory name, which
	// crypto/x509 leaves to the caller. Nothing here depends on these.
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// checkEndorsement finds out whether the policy trusts an endorsement key: by its
// hash in the inventory, or by a chain to one of the authorities.
func (v *Verifier) checkEndorsement(key crypto.PublicKey, certificates [][]byte) (attestation.Identity, *attestation.Grant, error) {
	id, err := identity(key)
	if err != nil {
		return id, nil, attestation.Refuse(attestation.ReasonMalformed, "endorsement key: %w", err)
	}
	if grant := v.policy.Granted(id); grant != nil {
		return id, grant, nil
	}
	if len(certificates) == 0 || len(v.policy.Authorities) == 0 {
		return id, nil, attestation.Refuse(attestation.ReasonIdentity, "endorsement key %s is not in the inventory, and no certificate and authority vouch for it", id.Value)
	}
	return id, nil, v.checkChain(key, certificates)
}

func (v *Verifier) checkChain(key crypto.PublicKey, certificates [][]byte) error {
	if len(certificates) > maxCertificates {
		return attestation.Refuse(attestation.ReasonTooLarge, "%d certificates, at most %d", len(certificates), maxCertificates)
	}
	var leaf *x509.Certificate
	intermediates := x509.NewCertPool()
	for i, der := range certificates {
		if len(der) > maxCertificateSize {
			return attestation.Refuse(attestation.ReasonTooLarge, "certificate of %d bytes, at most %d", len(der), maxCertificateSize)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return attestation.Refuse(attestation.ReasonMalformed, "certificate %d: %w", i, err)
		}
		if i == 0 {
			leaf = c
		} else {
			intermediates.AddCert(c)
		}
	}
	if !samePublicKey(leaf.PublicKey, key) {
		return attestation.Refuse(attestation.ReasonIdentity, "the certificate is of another key than the endorsement key")
	}
	if leaf.IsCA || !slices.ContainsFunc(leaf.UnknownExtKeyUsage, oidEKCertificate.Equal) {
		return attestation.Refuse(attestation.ReasonIdentity, "the certificate is not one for an endorsement key")
	}
	leaf.UnhandledCriticalExtensions = slices.DeleteFunc(leaf.UnhandledCriticalExtensions, oidSubjectAltName.Equal)
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: v.roots, Intermediates: intermediates, CurrentTime: v.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return attestation.Refuse(attestation.ReasonIdentity, "no authority of the policy vouches for the endorsement key: %w", err)
	}
	return nil
}

func samePublicKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// now is the time by which certificates and acceptances expire.
func (v *Verifier) now() time.Time {
	if v.clock != nil {
		return v.clock()
	}
	return time.Now()
}
