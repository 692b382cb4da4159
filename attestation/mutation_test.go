// SPDX-License-Identifier: Apache-2.0

//go:build mutation

package attestation_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// mutations each take one check away. The named test must then fail.
var mutations = []struct {
	check, file, old, new, test string
}{
	{"the exporter is in the binding", "atls/channel.go", "	h.Write(exporter)\n", "", "TestRelayWithTheTLSKey"},
	{"the nonces are in the binding", "atls/channel.go", "	h.Write(clientNonce[:])\n	h.Write(serverNonce[:])\n", "", "TestVectors"},
	{"the role is in the binding", "atls/channel.go", "	h.Write([]byte{byte(prover)})\n", "", "TestReflection"},
	{"the peer has a nonce of its own", "atls/exchange.go", "|| peer.nonce == own.nonce {", "{", "TestReflection"},
	{"what is demanded is offered", "atls/hello.go", "	case len(offers) == 0:\n		return \"\", attestation.Refuse(", "	case len(offers) == 0:\n		return \"\", nil\n	case false:\n		return \"\", attestation.Refuse(", "TestSidesMustFit"},
	{"frames have limits", "atls/frame.go", "case size > t.limit():", "case false:", "TestReadFrameRefuses"},
	{"frames come when they may", "atls/frame.go", "if !expected && t != frameResult {", "if false && !expected {", "TestReadFrameRefuses"},
	{"a silent peer is given up", "atls/transport.go", "silence := time.AfterFunc(patience, cancel)", "silence := time.AfterFunc(100*patience, cancel)", "TestSilence"},
	{"who is silent holds no turn", "atls/exchange.go", "	announced, err := x.awaitEvidence()\n	if err != nil {\n		return nil, err\n	}\n	leave, err := x.enterVerify(ctx)\n	if err != nil {\n		return nil, err\n	}\n	defer leave()\n", "	leave, err := x.enterVerify(ctx)\n	if err != nil {\n		return nil, err\n	}\n	defer leave()\n	announced, err := x.awaitEvidence()\n	if err != nil {\n		return nil, err\n	}\n", "TestFloodFromManySources"},
	{"who stalls loses the turn", "atls/exchange.go", "x.hurry(bodyTimeout)", "x.hurry(10 * bodyTimeout)", "TestSilence|TestFloodFromManySources"},
	{"answers come in time", "atls/exchange.go", "	defer x.hurry(proofTimeout)()\n	if evidence.Technology", "	if evidence.Technology", "TestSilentAnswer"},
	{"quotes have a rate", "gate/gate.go", "if g.limits.Rate > 0 && g.tokens < 1 {", "if false {", "TestGateBoundsTheRate"},
	{"turns go round by source", "gate/gate.go", "append(slices.Delete(g.turns, i, i+1), source)", "append([]string{source}, slices.Delete(g.turns, i, i+1)...)", "TestGateIsFair"},
	{"a source has a share of the slots", "gate/gate.go", "return g.limits.PerSource == 0 || g.inside[s] < g.limits.PerSource", "return g.limits.PerSource >= 0 || g.inside[s] < g.limits.PerSource", "TestGateBounds(ASource|WhoIsInside)"},
	{"TLS 1.3 for this protocol only", "atls/channel.go", "|| s.NegotiatedProtocol != alpn {", "{", "TestOnlyFreshConnections"},
	{"nil is not an issuer", "atls/atls.go", "		if attestation.IsNil(issuer) {\n", "		if issuer == nil {\n", "TestConstructorsRefuseNil"},
	{"a message has few fields", "decode.go", "*fields > maxFields {", "false {", "TestBombIsNotDecoded"},
	{"a report binds the key", "composite.go", "KeyBinding(inner.Key)", "b", "TestComposite(Accepts|Refuses)"},
	{"a policy is complete", "policy/policy.go", "if missing := raw.missing(); missing != nil {", "if missing := raw.missing(); missing != nil && raw.Version == nil {", "TestParseNamesWhatIsMissing"},
	{"a JSON key is there once", "../measurements/strictjson/strictjson.go", "if seen[key] {", "if false {", "TestDecodeRefuses"},
	{"extra data is the binding's", "tpm/quote.go", "!bytes.Equal(q.extraData, want[:])", "want[0] != want[0]", "TestQuoteShapes"},
	{"magic", "tpm/quote.go", "if magic != generatedValue {", "if false {", "TestQuoteShapes"},
	{"type", "tpm/quote.go", "if typ != attestQuote {", "if false {", "TestQuoteShapes"},
	{"selection", "tpm/quote.go", "if err := q.checkSelection(); err != nil {", "if err := q.checkSelection(); err != nil && false {", "TestQuoteShapes"},
	{"no register beyond the selection", "tpm/quote.go", "if len(b.Values) > size {", "if false {", "TestQuoteShapes"},
	{"registers are the quoted ones", "tpm/quote.go", "if !bytes.Equal(h.Sum(nil), q.digest) {", "if false {", "TestQuoteShapes"},
	{"the TPM was not resumed", "tpm/quote.go", "if q.boot.Restarts != 0 {", "if false {", "TestQuoteShapes"},
	{"the signature", "tpm/quote.go", "if !ecdsa.Verify(", "if ecdsa.Verify(key, nil, nil, nil) && !ecdsa.Verify(", "TestQuoteShapes"},
	{"the key is restricted", "tpm/key.go", "if !bytes.HasPrefix(public, attestationPrefix) {", "if len(public) <= len(attestationPrefix) {", "TestAttestationKeys"},
	{"the key is in the endorsement hierarchy", "tpm/quote.go", "if !bytes.Equal(q.signer, qualifiedName(attestationKey)) {", "if false {", "TestQuoteShapes"},
	{"the certificate is the endorsement key's", "tpm/endorsement.go", "if !samePublicKey(leaf.PublicKey, key) {", "if false {", "TestEndorsement"},
	{"an authority vouches", "tpm/endorsement.go", "	if err != nil {\n		return attestation.Refuse(attestation.ReasonIdentity, \"no authority", "	if false {\n		return attestation.Refuse(attestation.ReasonIdentity, \"no authority", "TestEndorsement"},
	{"the challenge is answered", "tpm/credential.go", "if !hmac.Equal(answer, response(secret, b)) {", "if len(answer) > 1<<20 {", "TestEndorsement|TestChallenge"},
	{"the answer is for this connection", "tpm/credential.go", "	m.Write(b[:])\n", "", "TestChallenge"},
	{"a filed challenge is for this endorsement key", "tpm/offline.go", "!bytes.Equal(p.endorsementKey, id) ||", "len(id) == 0 ||", "TestVerifyAnswered"},
	{"a filed challenge is for this attestation key", "tpm/offline.go", "|| !bytes.Equal(p.attestationKey, name(attestationKey)) {", "{", "TestVerifyAnswered"},
	{"a filed challenge is for this nonce", "tpm/offline.go", "if !bytes.Equal(p.binding, b[:]) {", "if false {", "TestVerifyAnswered"},
	{"a filed challenge is answered", "tpm/offline.go", "if !hmac.Equal(answer, response(p.secret, b)) {", "if hmac.Equal(nil, p.secret) {", "TestVerifyAnswered"},
	{"without a challenge nothing is proven", "tpm/offline.go", "	if p == nil {\n		return errNotChallenged\n", "	if p == nil {\n		return nil\n", "TestVerifyAnswered"},
	{"nonces have 32 bytes", "nonce.go", "	if len(nonce) < MinNonceSize || len(nonce) > MaxNonceSize {\n		return Binding{}", "	if false {\n		return Binding{}", "TestNonceBinding"},
	{"the log replays", "tpm/verify.go", "!bytes.Equal(values[pcr], seen)", "false && !bytes.Equal(values[pcr], seen)", "TestEventLog"},
	{"what was booted is accepted", "tpm/verify.go", "image, err := v.policy.CheckPCRs(pcrs, v.now())\n	if err != nil {", "image, err := v.policy.CheckPCRs(pcrs, v.now())\n	if false {", "TestMeasurements"},
	{"a silent verifier does not accept", "atls/exchange.go", "if claims == nil {", "if false {", "TestNoClaims"},
	{"an ended handshake is not handed out", "atls/transport.go", "if err == nil && !interrupted() {", "if false {", "TestCancelledAtTheEnd"},
	{"only so many sources wait", "gate/gate.go", "|| n == 0 && len(g.turns) >= g.limits.Sources {", "{", "TestGateBoundsSources"},
	{"a report vouches for some key", "composite.go", "if len(inner.Key) == 0 {", "if false {", "TestCompositeNeedsAKey"},
	{"a report is not fresh", "composite.go", " && p != PropertyFresh", "", "TestCompositeProperties"},
	{"an authority is not a TPM", "tpm/endorsement.go", "leaf.IsCA ||", "", "TestEndorsement"},
	{"certificates expire by the verifier's clock", "tpm/endorsement.go", "CurrentTime: v.now(), ", "", "TestEndorsementByTheVerifiersClock"},
	{"nothing follows a challenge", "tpm/credential.go", "!r.done() ||", "r.bad ||", "TestParseChallenge"},
	{"weak curves are named", "policy/review.go", "		r.strength(where, key.Curve.Params().BitSize, minCurveBits)\n", "", "TestReview"},
}

var failed = regexp.MustCompile(`(?m)^ *--- FAIL: (\S+)`)

// TestMutations shows that tests fail when the check they name is gone. It compiles
// each package anew for each, with the go command's overlays.
func TestMutations(t *testing.T) {
	for _, m := range mutations {
		t.Run(m.check, func(t *testing.T) {
			source, err := os.ReadFile(m.file)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Count(string(source), m.old) != 1 {
				t.Fatalf("%s has %q %d times", m.file, m.old, strings.Count(string(source), m.old))
			}
			output, err := runWith(t, m.file, strings.Replace(string(source), m.old, m.new, 1), m.test)
			names := failed.FindAllStringSubmatch(output, -1)
			if err == nil || len(names) == 0 {
				t.Fatalf("the tests do not miss it: %v\n%s", err, output)
			}
			fmt.Printf("| %s | `%s` | %s |\n", m.check, m.file, names[len(names)-1][1])
		})
	}
}

func runWith(t *testing.T, file, text, tests string) (string, error) {
	t.Helper()
	path, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	mutated, overlay := filepath.Join(dir, "mutated.go"), filepath.Join(dir, "overlay.json")
	list, err := json.Marshal(map[string]any{"Replace": map[string]string{path: mutated}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{mutated: []byte(text), overlay: list} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command("go", "test", "-vet=off", "-timeout=60s", "-overlay", overlay, "-run", "^("+tests+")$", "./"+filepath.Dir(file)).CombinedOutput()
	return string(out), err
}
