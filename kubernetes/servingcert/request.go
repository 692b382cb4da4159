// SPDX-License-Identifier: Apache-2.0

package servingcert

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// By https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/
// and the signer of kube-controller-manager.
const (
	signer     = "kubernetes.io/kubelet-serving"
	userPrefix = "system:node:"
	group      = "system:nodes"
)

// maxRequest bounds what is parsed. A request with a name and an address has 600 bytes.
const maxRequest = 16 << 10

// request is the part of a CertificateSigningRequest that matters.
type request struct {
	Metadata struct{ Name string }
	Spec     struct {
		SignerName string
		Username   string
		Groups     []string
		Usages     []string
		Request    []byte
	}
	Status struct {
		Certificate []byte
		Conditions  []struct{ Type string }
	}
}

// pending says that nobody has decided yet.
func (r *request) pending() bool {
	return r.Spec.SignerName == signer && len(r.Status.Certificate) == 0 && len(r.Status.Conditions) == 0
}

// node is the node that asks, by what the API server knows of it.
func (r *request) node() (string, bool) {
	name, ok := strings.CutPrefix(r.Spec.Username, userPrefix)
	return name, ok && name != "" && slices.Contains(r.Spec.Groups, group)
}

// check says what a node asks for and must not have, or nothing.
func (r *request) check(node string, addresses []netip.Addr) error {
	if err := checkUsages(r.Spec.Usages); err != nil {
		return err
	}
	if len(r.Spec.Request) > maxRequest {
		return fmt.Errorf("a request of %d bytes", len(r.Spec.Request))
	}
	block, rest := pem.Decode(r.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(bytes.TrimSpace(rest)) != 0 {
		return fmt.Errorf("not one certificate request in PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return fmt.Errorf("not a certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return fmt.Errorf("not signed with its own key: %w", err)
	}
	switch {
	case csr.Subject.CommonName != r.Spec.Username:
		return fmt.Errorf("asks for the name %q, and is %q", csr.Subject.CommonName, r.Spec.Username)
	case !slices.Equal(csr.Subject.Organization, []string{group}):
		return fmt.Errorf("asks for the organisations %q, want %q alone", csr.Subject.Organization, group)
	case len(csr.EmailAddresses) > 0 || len(csr.URIs) > 0:
		return fmt.Errorf("asks for mail addresses or URIs")
	case len(csr.DNSNames) == 0 && len(csr.IPAddresses) == 0:
		return fmt.Errorf("asks for neither a name nor an address")
	}
	for _, name := range csr.DNSNames {
		if name != node {
			return fmt.Errorf("asks for the name %q, which is not the node's", name)
		}
	}
	for _, ip := range csr.IPAddresses {
		address, ok := netip.AddrFromSlice(ip)
		if !ok || !slices.Contains(addresses, address.Unmap()) {
			return fmt.Errorf("asks for the address %s, which is not the node's", ip)
		}
	}
	return nil
}

// checkUsages allows what the signer does for a server's certificate.
func checkUsages(usages []string) error {
	for _, u := range usages {
		if !slices.Contains([]string{"digital signature", "key encipherment", "server auth"}, u) {
			return fmt.Errorf("asks for the use %q", u)
		}
	}
	if !slices.Contains(usages, "server auth") {
		return fmt.Errorf("does not ask for a server's use")
	}
	return nil
}
