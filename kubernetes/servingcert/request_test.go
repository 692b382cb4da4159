// SPDX-License-Identifier: Apache-2.0

package servingcert

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

var address = netip.MustParseAddr("10.77.0.2")

// template is what kubelet asks for.
func template() *x509.CertificateRequest {
	return &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "system:node:n", Organization: []string{"system:nodes"}},
		DNSNames: []string{"n"}, IPAddresses: []net.IP{net.ParseIP("10.77.0.2")},
	}
}

func sign(t *testing.T, template *x509.CertificateRequest) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func TestCheck(t *testing.T) {
	good := []string{"digital signature", "server auth"}
	with := func(change func(*x509.CertificateRequest)) func(*testing.T) []byte {
		return func(t *testing.T) []byte {
			csr := template()
			change(csr)
			return sign(t, csr)
		}
	}
	nothing := func(*x509.CertificateRequest) {}
	raw := func(b []byte) func(*testing.T) []byte { return func(*testing.T) []byte { return b } }
	for _, test := range []struct {
		name    string
		request func(*testing.T) []byte
		usages  []string
		want    string
	}{
		{"kubelet's", with(nothing), good, ""},
		{"kubelet's, with an RSA key", with(nothing), append(good, "key encipherment"), ""},
		{"address alone", with(func(c *x509.CertificateRequest) { c.DNSNames = nil }), good, ""},
		{"a client's", with(nothing), []string{"digital signature", "client auth"}, `asks for the use "client auth"`},
		{"a client's too", with(nothing), append(good, "client auth"), `asks for the use "client auth"`},
		{"an authority's", with(nothing), append(good, "cert sign"), `asks for the use "cert sign"`},
		{"for nothing", with(nothing), []string{"digital signature"}, "does not ask for a server's use"},
		{"another node", with(func(c *x509.CertificateRequest) { c.Subject.CommonName = "system:node:m" }), good, `asks for the name "system:node:m", and is "system:node:n"`},
		{"administrator", with(func(c *x509.CertificateRequest) { c.Subject.Organization = []string{"system:masters"} }), good, `asks for the organisations ["system:masters"], want "system:nodes" alone`},
		{"administrator too", with(func(c *x509.CertificateRequest) {
			c.Subject.Organization = []string{"system:masters", "system:nodes"}
		}), good, `asks for the organisations ["system:nodes" "system:masters"], want "system:nodes" alone`},
		{"API server's name", with(func(c *x509.CertificateRequest) { c.DNSNames = append(c.DNSNames, "kubernetes.default.svc") }), good, `asks for the name "kubernetes.default.svc", which is not the node's`},
		{"wildcard", with(func(c *x509.CertificateRequest) { c.DNSNames = []string{"*"} }), good, `asks for the name "*", which is not the node's`},
		{"another's address", with(func(c *x509.CertificateRequest) { c.IPAddresses = append(c.IPAddresses, net.ParseIP("10.77.0.3")) }), good, "asks for the address 10.77.0.3, which is not the node's"},
		{"IPv6 address", with(func(c *x509.CertificateRequest) { c.IPAddresses = []net.IP{net.ParseIP("fd00::1")} }), good, "asks for the address fd00::1, which is not the node's"},
		{"nobody's", with(func(c *x509.CertificateRequest) { c.DNSNames, c.IPAddresses = nil, nil }), good, "asks for neither a name nor an address"},
		{"mail", with(func(c *x509.CertificateRequest) { c.EmailAddresses = []string{"a@b"} }), good, "asks for mail addresses or URIs"},
		{"URI", with(func(c *x509.CertificateRequest) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "a"}} }), good, "asks for mail addresses or URIs"},
		{"empty", raw(nil), good, "not one certificate request in PEM"},
		{"another kind", raw(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE"})), good, "not one certificate request in PEM"},
		{"two", func(t *testing.T) []byte { return bytes.Repeat(sign(t, template()), 2) }, good, "not one certificate request in PEM"},
		{"nothing in it", raw(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST"})), good, "not a certificate request: asn1: syntax error: sequence truncated"},
		{"much", raw(make([]byte, 16<<10+1)), good, "a request of 16385 bytes"},
		{"another's key", func(t *testing.T) []byte {
			block, _ := pem.Decode(sign(t, template()))
			block.Bytes[len(block.Bytes)-1] ^= 1
			return pem.EncodeToMemory(block)
		}, good, "not signed with its own key: x509: ECDSA verification failure"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &request{}
			r.Spec.Username, r.Spec.Usages, r.Spec.Request = "system:node:n", test.usages, test.request(t)
			got := ""
			if err := r.check("n", []netip.Addr{address}); err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// TestNode: a name alone makes no node; the group is given by certificates only.
func TestNode(t *testing.T) {
	for _, test := range []struct {
		user, group, want string
	}{
		{"system:node:n", "system:nodes", "n"},
		{"system:node:n", "system:authenticated", ""},
		{"system:node:", "system:nodes", ""},
		{"system:bootstrap:n", "system:nodes", ""},
	} {
		r := &request{}
		r.Spec.Username, r.Spec.Groups = test.user, []string{test.group}
		got, ok := r.node()
		if ok != (test.want != "") || ok && got != test.want {
			t.Errorf("%s in %s: %q, %v", test.user, test.group, got, ok)
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte(strings.Repeat("-----BEGIN CERTIFICATE REQUEST-----\n", 2)))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte{0x30, 0}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &request{}
		r.Spec.Username, r.Spec.Usages, r.Spec.Request = "system:node:n", []string{"server auth"}, data
		if err := r.check("n", []netip.Addr{address}); err != nil {
			return
		}
		// What is approved names the node and nobody else.
		block, _ := pem.Decode(data)
		csr, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil || csr.Subject.CommonName != "system:node:n" {
			t.Errorf("approved %q, %v", csr.Subject, err)
		}
	})
}
