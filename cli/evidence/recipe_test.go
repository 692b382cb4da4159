// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package evidence_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"encoding/pem"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/attestation/swtpmtest"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/evidence"
	"github.com/constellation-os/constellation/measurements/tcg"
)

// recipe takes the script out of the page that teaches it.
func recipe(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/attestation.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(page), "\n## How to check evidence without us\n")
	if !found {
		t.Fatal("the page has no such section")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var script strings.Builder
	for _, block := range regexp.MustCompile("(?s)```bash\n(.*?)```").FindAllStringSubmatch(section, -1) {
		script.WriteString(block[1])
	}
	if script.Len() == 0 {
		t.Fatal("the section has no steps")
	}
	return script.String()
}

// recipeTest is evidence and the verdict that everybody must come to. Empty fields are
// those of a listed machine that is accepted.
type recipeTest struct {
	name    string
	machine string                        // whose evidence: one, two or evil
	change  func(one, two *payload) error // of the evidence
	policy  string
	nonce   string                        // the verifier's
	answers string                        // the machine that is challenged, if another
	later   func(one, two *payload) error // of the evidence, once the challenge is out
	want    string
}

var recipeTests = []recipeTest{
	{name: "listed", want: "accepted"},
	{name: "certified", policy: "authority", want: "accepted"},
	{name: "certified by a stranger", policy: "stranger", want: "refused: identity"},
	{name: "certified is another TPM", policy: "authority", change: foreignCertificate, want: "refused: identity"},
	{name: "an image that is no longer accepted", policy: "expired", want: "refused: expired"},
	{name: "another command line", machine: "evil", policy: "authority", want: "refused: measurements"},
	{name: "V4: an old nonce", nonce: otherNonce, want: "refused: binding"},
	{name: "V5: a 17th register", change: tampered["unselected.json"], want: "refused: unselected-register"},
	{name: "V5: a bank by another name", change: renamedBank, want: "refused: unselected-register"},
	{name: "V7: another TPM", machine: "two", want: "refused: identity"},
	{name: "V7: another TPM answers", answers: "two", want: "refused: challenge"},
	{name: "V7: another TPM's attestation key", change: tampered["spliced.json"], answers: "two", want: "refused: challenge"},
	{name: "V7: the same once the challenge is out", machine: "two", policy: "authority", later: foreignEndorsement, want: "refused: challenge"},
	{name: "V7: another TPM's quote once the challenge is out", later: foreignQuote, want: "refused: challenge"},
	{name: "V7: another TPM's key, not its signature", change: tampered["stolen.json"], want: "refused: signature"},
	{name: "V8: relabelled", change: tampered["relabelled.json"], want: "accepted"},
	{name: "V8: dropped", change: tampered["dropped.json"], want: "refused: event-log"},
	{name: "V8: appended", change: tampered["appended.json"], want: "refused: event-log"},
	{name: "V8: reordered", change: tampered["reordered.json"], want: "refused: event-log"},
	{name: "V8: appended to the kernel's register", change: appended(10, tcg.IPL, inSHA256, inSHA384), want: "refused: event-log"},
	{name: "V8: appended to the cluster's register", change: appended(15, tcg.IPL, inSHA256, inSHA384), want: "refused: event-log"},
	{name: "V8: appended to a register that is not quoted", change: appended(16, tcg.IPL, inSHA256, inSHA384), want: "refused: event-log"},
	{name: "V8: appended to the last register", change: appended(23, tcg.IPL, inSHA256, inSHA384), want: "refused: event-log"},
	{name: "V8: a note for the kernel's register", change: appended(10, tcg.NoAction, inSHA256, inSHA384), want: "accepted"},
	{name: "V8: an event without digests", change: appended(14, tcg.IPL), want: "refused: event-log"},
	{name: "V8: a note without digests", change: appended(14, tcg.NoAction), want: "refused: event-log"},
	{name: "V8: a note of one bank", change: appended(14, tcg.NoAction, inSHA256), want: "refused: event-log"},
	{name: "V8: a note of the same bank twice", change: appended(14, tcg.NoAction, inSHA256, inSHA256), want: "refused: event-log"},
	{name: "V8: a note of three banks", change: appended(14, tcg.NoAction, inSHA256, inSHA384, inSHA1), want: "refused: event-log"},
	{name: "V8: a note of a bank that is not declared", change: appended(14, tcg.NoAction, inSHA256, inSHA1), want: "refused: event-log"},
	{name: "V8: a note of an unknown bank", change: appended(14, tcg.NoAction, inSHA256, inOther), want: "refused: event-log"},
	{name: "V8: a locality", change: located(1), want: "accepted"},
	{name: "V8: a locality twice", change: located(2), want: "refused: event-log"},
	{name: "V8: a locality after the events", change: locatedLate, want: "refused: event-log"},
	{name: "V8: a result in an event's text", change: written, want: "refused: event-log"},
	{name: "no version", change: func(one, _ *payload) error { one.Version = 0; return nil }, want: "refused: version"},
	{name: "a changed signature", change: tampered["signature.json"], want: "refused: signature"},
	{name: "a changed quote", change: tampered["quote.json"], want: "refused: signature"},
	{name: "a changed register", change: tampered["register.json"], want: "refused: register-digest"},
	{name: "V6: a key of one's own", change: forgedWith(func(*payload) {}), want: "refused: challenge"},
	{name: "V6: wrong magic", change: forgedWith(func(p *payload) { p.Quote[0] ^= 1 }), want: "refused: structure"},
	{name: "V6: wrong type", change: forgedWith(func(p *payload) { p.Quote[5] ^= 1 }), want: "refused: structure"},
	{name: "V6: a key of another hierarchy", change: forgedWith(func(p *payload) { p.Quote[20] ^= 1 }), want: "refused: key"},
	{name: "V6: a TPM that was resumed", change: forgedWith(func(p *payload) { p.Quote[91] = 1 }), want: "refused: clock"},
	{name: "V6: a register less", change: forgedWith(func(p *payload) { p.Quote[109] = 0x7f }), want: "refused: selection"},
	{name: "V6: registers of nowhere", change: forgedWith(func(p *payload) { p.Quote[len(p.Quote)-1] ^= 1 }), want: "refused: register-digest"},
	{name: "V6: an unrestricted key", change: forgedBy(unrestricted, func(*payload) {}), want: "refused: key"},
	{name: "V6: a key that was imported", change: forgedBy(imported, func(*payload) {}), want: "refused: key"},
	{name: "V6: a point off the curve", change: forgedWith(func(p *payload) { p.AttestationKey[len(p.AttestationKey)-1] ^= 1 }), want: "refused: malformed"},
	{name: "V6: an endorsement key that signs", change: forgedWith(func(p *payload) { p.EndorsementKey[5] ^= 4 }), want: "refused: key"},
}

func foreignCertificate(one, two *payload) error {
	one.EndorsementCertificates = two.EndorsementCertificates
	return nil
}

func foreignEndorsement(one, two *payload) error {
	one.EndorsementKey, one.EndorsementCertificates = two.EndorsementKey, two.EndorsementCertificates
	return nil
}

func foreignQuote(one, two *payload) error {
	one.AttestationKey, one.Quote, one.Signature = two.AttestationKey, two.Quote, two.Signature
	return nil
}

func renamedBank(one, _ *payload) error {
	one.Banks[1].Algorithm = 4
	return nil
}

// TestRecipe: with other people's tools everybody comes to the same verdict, for the
// same reason.
func TestRecipe(t *testing.T) {
	r, script := newRoom(t), recipe(t)
	for name, socket := range r.sockets {
		constellation(t, "evidence", "collect", "--nonce", nonce, "--device", socket, "--event-log", r.file("log-"+name), "--out", r.file(name+".json"))
	}
	r.writePolicies(t)
	for _, tc := range recipeTests {
		tc.machine, tc.policy, tc.nonce = cmp.Or(tc.machine, "one"), cmp.Or(tc.policy, "listed"), cmp.Or(tc.nonce, nonce)
		tc.answers = cmp.Or(tc.answers, tc.machine)
		t.Run(tc.name, func(t *testing.T) { tc.run(t, r, script) })
	}
}

// writePolicies makes those that trust machine one, whoever the machines' authority
// certified, and whoever another did.
func (r *room) writePolicies(t *testing.T) {
	t.Helper()
	strangers := swtpmtest.NewAuthority(t)
	swtpmtest.Serve(t, strangers)
	write(t, r.file("stranger.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: strangers.Certificate(t)}))
	write(t, r.file("machines.txt"), []byte("node-1 worker "+identity(t, r.file("one.json"))+"\n"))
	for name, args := range map[string][]string{
		"authority": {"--authority", r.file("ca.pem")}, "stranger": {"--authority", r.file("stranger.pem")}, "listed": {"--inventory", r.file("machines.txt")},
	} {
		create := []string{"policy", "create", r.file(name + ".policy"), "--measurements", r.file("measurements.json"), "--not-after", "2099-01-01"}
		constellation(t, append(create, args...)...)
	}
	listed := read(t, r.file("listed.policy"))
	write(t, r.file("expired.policy"), bytes.ReplaceAll(listed, []byte("2099-01-01T23:59:59Z"), []byte("2020-01-01T00:00:00Z")))
}

// run judges in both ways, before and after the machine was challenged in both ways.
func (tc *recipeTest) run(t *testing.T, r *room, script string) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	other := r.file("two.json")
	if tc.machine == "two" {
		other = r.file("one.json")
	}
	copyChanged(t, r.file(tc.machine+".json"), other, in("evidence.json"), tc.change)
	write(t, in("policy.json"), read(t, r.file(tc.policy+".policy")))
	write(t, in("nonce"), []byte(tc.nonce))

	theirs, ours := runRecipe(t, dir, script), verify(t, in, tc.nonce)
	if theirs == ours && ours == "refused: challenge-missing" {
		constellation(t, "evidence", "challenge", in("evidence.json"), "--nonce", tc.nonce, "--secret", in("secret.json"), "--out", in("our-challenge"))
		answer(t, r.sockets[tc.answers], tc.nonce, in("challenge"), in("response"))
		answer(t, r.sockets[tc.answers], tc.nonce, in("our-challenge"), in("our-response"))
		copyChanged(t, in("evidence.json"), other, in("evidence.json"), tc.later)
		theirs = runRecipe(t, dir, script)
		ours = verify(t, in, tc.nonce, "--secret", in("secret.json"), "--response", in("our-response"))
	}
	if theirs != tc.want || ours != tc.want {
		t.Errorf("by the recipe %q, by the command %q, want %q", theirs, ours, tc.want)
	}
}

func copyChanged(t *testing.T, from, other, to string, change func(one, two *payload) error) {
	t.Helper()
	f, one, err := readPayload(from)
	if err != nil {
		t.Fatal(err)
	}
	_, two, err := readPayload(other)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		if err := change(one, two); err != nil {
			t.Fatal(err)
		}
	}
	data, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to, data)
}

func runRecipe(t *testing.T, dir, script string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
	cmd.Dir = dir
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	verdict := lines[len(lines)-1]
	if (err == nil) != (verdict == "accepted") {
		t.Fatalf("%v, and the last words are %q\n%s", err, verdict, errs.String())
	}
	return verdict
}

// verify is the command's verdict.
func verify(t *testing.T, in func(string) string, nonce string, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	args = append([]string{"evidence", "verify", in("evidence.json"), "--policy", in("policy.json"), "--nonce", nonce}, args...)
	code := command.Run(t.Context(), command.New(evidence.Command()), args, &out, &errs)
	verdict, _, _ := strings.Cut(out.String(), "\n")
	if (code == 0) != (verdict == "accepted") || code > 1 {
		t.Fatalf("exit code %d, %q, %s", code, verdict, errs.String())
	}
	return verdict
}

// answer lets a TPM respond; one that cannot answers with zeros.
func answer(t *testing.T, socket, nonce, challenge, response string) {
	t.Helper()
	args := []string{"evidence", "respond", challenge, "--nonce", nonce, "--device", socket, "--out", response}
	if command.Run(t.Context(), command.New(evidence.Command()), args, io.Discard, io.Discard) != 0 {
		write(t, response, []byte("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"))
	}
}
