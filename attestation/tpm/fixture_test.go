// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"google.golang.org/protobuf/proto"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/api"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/tcg"
)

var now = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// boot is a prediction of one event for each enforced register that has events.
func boot(cmdline string) *measurements.Prediction {
	event := func(pcr int, typ tcg.EventType, component measurements.Component, what string) measurements.Event {
		return measurements.Event{PCR: pcr, Type: typ.String(), Digests: measurements.Sum([]byte(what)), Component: component, Description: what}
	}
	p := &measurements.Prediction{
		Version: measurements.Version,
		Image:   measurements.Image{Name: "image"},
		Events: []measurements.Event{
			event(0, tcg.CRTMVersion, measurements.ComponentFirmware, "firmware"),
			event(4, tcg.EFIBootServicesApp, measurements.ComponentUKI, "uki"),
			event(5, tcg.EFIGPT, measurements.ComponentPartitions, "partitions"),
			event(7, tcg.EFIVariableDriverConfig, measurements.ComponentVariables, "SecureBoot"),
			event(9, tcg.EventTag, measurements.ComponentCmdline, cmdline),
			event(9, tcg.EventTag, measurements.ComponentInitrd, "initrd"),
			event(11, tcg.IPL, measurements.ComponentKernel, "kernel"),
		},
		Enforced:    measurements.EnforcedQEMU(),
		Unpredicted: []measurements.Unpredicted{},
	}
	p.PCRs = p.Replay()
	return p
}

// machine is what a machine that booted p reports.
func machine(p *measurements.Prediction) *measurements.Observed {
	return artifacttest.Observed(p, artifacttest.EventsOf(p))
}

// accept is the JSON of measurements that accept a boot.
func accept(p *measurements.Prediction, notAfter time.Time) map[string]any {
	pcrs := map[int]any{}
	for _, pcr := range p.Enforced {
		pcrs[pcr] = []any{map[string]any{"sha256": p.PCRs[measurements.SHA256][pcr], "sha384": p.PCRs[measurements.SHA384][pcr], "not_after": notAfter}}
	}
	return map[string]any{"name": p.Image.Name, "pcrs": pcrs}
}

// policyOf makes a policy out of authorities, inventory and an accepted boot.
func policyOf(t testing.TB, p *measurements.Prediction, authorities [][]byte, known ...attestation.Identity) *policy.Document {
	t.Helper()
	var cas, inventory []any
	for _, der := range authorities {
		cas = append(cas, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	}
	for _, id := range known {
		inventory = append(inventory, map[string]any{"kind": id.Kind, "identity": id.Value, "name": "node-1", "role": policy.Worker})
	}
	data, err := json.Marshal(map[string]any{
		"version": 1, "technologies": []string{"tpm"},
		"measurements": map[string]any{"version": 1, "accepted": []any{accept(p, now.AddDate(1, 0, 0))}},
		"endorsement":  map[string]any{"authorities": cas, "inventory": inventory},
	})
	if err != nil {
		t.Fatal(err)
	}
	d, err := policy.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func verifier(t testing.TB, d *policy.Document, predictions ...*measurements.Prediction) *Verifier {
	t.Helper()
	v, err := NewVerifier(d, VerifierOptions{Predictions: predictions, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// rsaKeys makes RSA keys but once for each name: they take long.
var rsaKeys = struct {
	sync.Mutex
	of map[string]*rsa.PrivateKey
}{of: map[string]*rsa.PrivateKey{}}

func rsaKey(t testing.TB, name string) *rsa.PrivateKey {
	t.Helper()
	rsaKeys.Lock()
	defer rsaKeys.Unlock()
	if rsaKeys.of[name] == nil {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		rsaKeys.of[name] = key
	}
	return rsaKeys.of[name]
}

// ca is an authority for endorsement keys.
type ca struct {
	key *ecdsa.PrivateKey
	der []byte
}

func newCA(t testing.TB) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(9, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &ca{key, der}
}

// certify makes an endorsement certificate, with the critical alternative name that
// such certificates have.
func (c *ca) certify(t testing.TB, key *rsa.PublicKey, change func(*x509.Certificate)) []byte {
	t.Helper()
	name, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: []byte{0x30, 0}}})
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage:           x509.KeyUsageKeyEncipherment,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidEKCertificate},
		ExtraExtensions:    []pkix.Extension{{Id: oidSubjectAltName, Critical: true, Value: name}},
	}
	if change != nil {
		change(template)
	}
	parent, err := x509.ParseCertificate(c.der)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, c.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// fake is a TPM in this process, true to the specification until a test bends it.
type fake struct {
	t            testing.TB
	ak           *ecdsa.PrivateKey
	ek           *rsa.PrivateKey
	certificates [][]byte
	observed     *measurements.Observed
	restarts     uint32
	// bend changes the quote before it is signed, alter the evidence after that.
	bend  func(*fakeQuote)
	alter func(*api.TPM)
	// template is the attestation key's.
	template tpm2.TPMTPublic
}

// fakeQuote has the fields of a TPMS_ATTEST.
type fakeQuote struct {
	magic     uint32
	typ       uint16
	signer    []byte
	extraData []byte
	safe      byte
	hashes    []uint16
	selected  []byte
	digest    []byte
	trailer   []byte
}

func newFake(t testing.TB, name string, c *ca, p *measurements.Prediction) *fake {
	t.Helper()
	ak, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, ak: ak, ek: rsaKey(t, name), observed: machine(p), template: attestationTemplate()}
	if c != nil {
		f.certificates = [][]byte{c.certify(t, &f.ek.PublicKey, nil)}
	}
	return f
}

func (f *fake) akPublic() []byte {
	point, err := f.ak.PublicKey.Bytes()
	if err != nil {
		f.t.Fatal(err)
	}
	public := f.template
	public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
	})
	return tpm2.Marshal(public)
}

func (f *fake) ekPublic() []byte {
	public := tpm2.RSAEKTemplate
	public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: f.ek.N.Bytes()})
	return tpm2.Marshal(public)
}

func (f *fake) identity() attestation.Identity {
	id, err := identity(&f.ek.PublicKey)
	if err != nil {
		f.t.Fatal(err)
	}
	return id
}

func (f *fake) Technology() attestation.Technology { return Technology }

func (f *fake) Issue(_ context.Context, b attestation.Binding) (*attestation.Evidence, error) {
	data := qualifyingData(b)
	q := &fakeQuote{magic: generatedValue, typ: attestQuote, signer: qualifiedName(f.akPublic()), extraData: data[:], safe: 1,
		hashes: []uint16{algSHA256, algSHA384}, selected: allPCRs}
	m := &api.TPM{Version: version, AttestationKey: f.akPublic(), EndorsementKey: f.ekPublic(), EndorsementCertificates: f.certificates, EventLog: f.observed.EventLog}
	h := sha256.New()
	for i, alg := range measurements.Algorithms() {
		values := &api.Bank{Algorithm: uint32(q.hashes[i])}
		for pcr := range measurements.PCRCount {
			v := f.observed.PCRs[alg][pcr]
			h.Write(v)
			values.Values = append(values.Values, v...)
		}
		m.Banks = append(m.Banks, values)
	}
	q.digest = h.Sum(nil)
	if f.bend != nil {
		f.bend(q)
	}
	m.Quote = q.marshal(f.restarts)
	m.Signature = sign(f.t, f.ak, m.Quote)
	if f.alter != nil {
		f.alter(m)
	}
	payload, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	return attestation.NewEvidence(Technology, payload), nil
}

func (q *fakeQuote) marshal(restarts uint32) []byte {
	be := binary.BigEndian
	sized := func(b, v []byte) []byte { return append(be.AppendUint16(b, uint16(len(v))), v...) }
	b := be.AppendUint16(be.AppendUint32(nil, q.magic), q.typ)
	b = sized(sized(b, q.signer), q.extraData)
	b = be.AppendUint32(be.AppendUint32(be.AppendUint64(b, 1234), 7), restarts)
	b = be.AppendUint64(append(b, q.safe), 0x20260101)
	b = be.AppendUint32(b, uint32(len(q.hashes)))
	for _, h := range q.hashes {
		b = append(be.AppendUint16(b, h), byte(len(q.selected)))
		b = append(b, q.selected...)
	}
	return append(sized(b, q.digest), q.trailer...)
}

// sign makes a TPMT_SIGNATURE.
func sign(t testing.TB, key *ecdsa.PrivateKey, data []byte) []byte {
	digest := sha256.Sum256(data)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
		Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: r.Bytes()}, SignatureS: tpm2.TPM2BECCParameter{Buffer: s.Bytes()},
	})})
}

// Respond activates a credential as the specification says (Part 1, section 24).
func (f *fake) Respond(_ context.Context, b attestation.Binding, challenge []byte) ([]byte, error) {
	object, encrypted, err := parseChallenge(challenge)
	if err != nil {
		return nil, err
	}
	seed, err := rsa.DecryptOAEP(sha256.New(), nil, f.ek, encrypted, []byte("IDENTITY\x00"))
	if err != nil {
		return nil, err
	}
	r := &reader{rest: object}
	mac := r.sized()
	m := hmac.New(sha256.New, tpm2.KDFa(crypto.SHA256, seed, "INTEGRITY", nil, nil, 256))
	m.Write(r.rest)
	m.Write(name(f.akPublic()))
	if !hmac.Equal(mac, m.Sum(nil)) {
		return nil, errors.New("the credential is for another key")
	}
	block, err := aes.NewCipher(tpm2.KDFa(crypto.SHA256, seed, "STORAGE", name(f.akPublic()), nil, 128))
	if err != nil {
		return nil, err
	}
	return response(decryptCFB(block, r.rest)[2:], b), nil
}

// decryptCFB is AES-CFB with a zero IV (Part 1, section 11.4.8).
func decryptCFB(block cipher.Block, in []byte) []byte {
	out, iv := make([]byte, len(in)), make([]byte, block.BlockSize())
	for i := 0; i < len(in); i += len(iv) {
		pad := slices.Clone(iv)
		block.Encrypt(pad, iv)
		iv = slices.Clone(in[i:min(i+len(iv), len(in))])
		for j := range iv {
			out[i+j] = in[i+j] ^ pad[j]
		}
	}
	return out
}

// judge issues and verifies, with challenges.
func judge(t testing.TB, v *Verifier, prover attestation.Responder, b attestation.Binding) (*attestation.Claims, error) {
	t.Helper()
	e, err := prover.Issue(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return v.Verify(t.Context(), e, b, answeredBy(prover, b))
}

// answeredBy asks a prover, whose failure would end the exchange over a connection.
func answeredBy(prover attestation.Responder, b attestation.Binding) attestation.Challenger {
	return func(ctx context.Context, challenge []byte) ([]byte, error) {
		answer, err := prover.Respond(ctx, b, challenge)
		if err != nil {
			return nil, nil
		}
		return answer, nil
	}
}
