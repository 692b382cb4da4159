// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// good is a file with one field a line, so that lines are easily counted.
const good = `format: constellation-config/v1
name: example
provider: static
endpoint: api.example.org:6443
apiServerNames:
  - 192.0.2.1
kubernetes:
  version: v1.37.2
  components: components.json
  sources:
    - https://registry.example.org
    - http://10.77.0.1:5000
  podNetwork: 10.244.0.0/16
  serviceNetwork: 10.96.0.0/12
attestation:
  measurements:
    - measurements.json
  acceptedUntil: 2099-06-30
  authorities:
    - ca.pem
`

func TestParse(t *testing.T) {
	want := &Config{
		Format: Format, Name: "example", Provider: "static", Endpoint: "api.example.org:6443", APIServerNames: []string{"192.0.2.1"},
		Kubernetes: Kubernetes{
			Version: "v1.37.2", Components: "components.json", Sources: []string{"https://registry.example.org", "http://10.77.0.1:5000"},
			PodNetwork: "10.244.0.0/16", ServiceNetwork: "10.96.0.0/12",
		},
		Attestation: Attestation{Measurements: []string{"measurements.json"}, AcceptedUntil: "2099-06-30", Authorities: []string{"ca.pem"}},
	}
	got, err := Parse([]byte(good), "/folder")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	if p := got.Path("ca.pem"); p != "/folder/ca.pem" {
		t.Errorf("a path is %s", p)
	}
	if p := got.Path("/etc/ca.pem"); p != "/etc/ca.pem" {
		t.Errorf("an absolute path is %s", p)
	}
	if at, err := got.NotAfter(); err != nil || at.String() != "2099-06-30 23:59:59 +0000 UTC" {
		t.Errorf("accepted until %s, %v", at, err)
	}
}

func TestProblems(t *testing.T) {
	change := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for _, tc := range []struct {
		name, text string
		want       []string
	}{
		{"nothing", "", []string{"the file is empty"}},
		{"only a comment", "# later\n", []string{"the file is empty"}},
		{"not YAML", "format: [\nname: x\n", []string{"line 2: not YAML: did not find expected ',' or ']'"}},
		{"a tab", "format: constellation-config/v1\n\tname: x\n", []string{"line 2: not YAML: found a tab character that violates indentation"}},
		{"a list", "- format\n", []string{"line 1: want fields, not a list"}},
		{"two documents", good + "---\nname: x\n", []string{"line 21: a second document begins: want one"}},
		{"another version", change("/v1", "/v2"), []string{`line 1: format: "constellation-config/v2": this program reads "constellation-config/v1"`}},
		{"a typo", change("endpoint:", "endpiont:"), []string{
			"line 1: endpoint: missing", `line 4: endpiont: not a field; is "endpoint" meant?`,
		}},
		{"another case", change("podNetwork:", "podnetwork:"), []string{
			"line 8: kubernetes.podNetwork: missing", `line 13: kubernetes.podnetwork: not a field; is "podNetwork" meant?`,
		}},
		{"a field that is none", change("name: example", "name: example\nbanana: 1"), []string{"line 3: banana: not a field"}},
		{"a field twice", change("name: example", "name: example\nname: other"), []string{"line 3: name: there twice"}},
		{"a number for text", change("name: example", "name: 5"), []string{"line 2: name: want text, not a number: quote it if text is meant"}},
		{"true for text", change("name: example", "name: yes\nx: true"), []string{"line 3: x: not a field"}},
		{"nothing for text", change("name: example", "name:"), []string{"line 2: name: want text, not nothing"}},
		{"text for a list", change("  sources:\n    - https://registry.example.org\n    - http://10.77.0.1:5000", "  sources: here"), []string{"line 10: kubernetes.sources: want a list, not text"}},
		{"text for fields", change("attestation:", "attestation: none\nrest:"), []string{
			"line 15: attestation: want fields, not text", "line 16: rest: not a field",
		}},
		{"an alias", change("name: example", "name: &a example"), []string{"line 2: name: anchors and aliases are not read here: write the value out"}},
		{"a bad name", change("name: example", "name: Example"), []string{`line 2: name: name "Example": want 1 to 63 of a-z, 0-9 and -, and no dash at either end`}},
		{"a provider's typo", change("provider: static", "provider: qmeu"), []string{`line 3: provider: "qmeu": want one of qemu, static; is "qemu" meant?`}},
		{"an endpoint without a port", change("api.example.org:6443", "api.example.org"), []string{`line 4: endpoint: endpoint "api.example.org" is not HOST:PORT`}},
		{"a name that is none", change("- 192.0.2.1", "- a b"), []string{`line 6: apiServerNames[0]: "a b" is neither an address nor a DNS name`}},
		{"a version that is none", change("v1.37.2", "1.37"), []string{"line 8: kubernetes.version: want text, not a number: quote it if text is meant"}},
		{"a version without its v", change("v1.37.2", "1.37.2"), []string{`line 8: kubernetes.version: "1.37.2": want a version such as v1.37.2`}},
		{"a source with credentials", change("http://10.77.0.1:5000", "http://a:b@host"), []string{
			`line 12: kubernetes.sources[1]: "http://a:b@host": want the base URL of a registry, http:// or https://, without credentials`,
		}},
		{"a network with bits", change("10.244.0.0/16", "10.244.1.0/16"), []string{`line 8: kubernetes: network of pods 10.244.1.0/16 has bits set behind its prefix: 10.244.0.0/16 is meant`}},
		{"networks that overlap", change("10.244.0.0/16", "10.96.0.0/16"), []string{"line 8: kubernetes: network of pods 10.96.0.0/16 and network of services 10.96.0.0/12 overlap"}},
		{"past", change("2099-06-30", "2020-01-01"), []string{"line 18: attestation.acceptedUntil: 2020-01-01 is past: nothing would be accepted"}},
		{"no day", change("2099-06-30", "soon"), []string{`line 18: attestation.acceptedUntil: "soon" is neither a day such as 2027-06-30 nor a moment such as 2027-06-30T12:00:00Z`}},
		{"nobody to trust", change("  authorities:\n    - ca.pem\n", ""), []string{"line 16: attestation: neither authorities nor an inventory: no TPM would be trusted"}},
		{"first come as control plane", good + "  firstCome: [worker, control-plane]\n", []string{
			`line 21: attestation.firstCome: ["worker" "control-plane"]: it can be [worker], or left out: other roles are for machines of the inventory`,
		}},
		{"first come without an authority", change("  authorities:\n    - ca.pem\n", "  inventory: machines.txt\n  firstCome: [worker]\n"), []string{
			"line 20: attestation.firstCome: there are no authorities: nobody vouches for machines that the inventory does not list",
		}},
		{"several at once", change("name: example\nprovider: static", "name: A\nprovider: x"), []string{
			`line 2: name: name "A": want 1 to 63 of a-z, 0-9 and -, and no dash at either end`, `line 3: provider: "x": want one of qemu, static`,
		}},
		{"too much", strings.Repeat("#", MaxSize+1), []string{"1048577 bytes, at most 1048576"}},
		{"a hostile field", change("name: example", "name: example\n\"a\\e[2Jb\": 1"), []string{"line 3: a?[2Jb: not a field"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse([]byte(tc.text), "")
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v", err)
			}
			if diff := cmp.Diff(tc.want, strings.Split(e.Error(), "\n")); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestGeneratedFilesAreRead(t *testing.T) {
	want, err := Parse([]byte(good), "")
	if err != nil {
		t.Fatal(err)
	}
	want.Attestation.Inventory, want.Attestation.FirstCome = `machines "1": #.txt`, []string{"worker"}
	data, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(data, "")
	if err != nil {
		t.Fatalf("%v in\n%s", err, data)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	want.APIServerNames, want.Attestation.Authorities, want.Attestation.FirstCome = nil, nil, nil
	if data, err = want.Marshal(); err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(data, ""); err != nil {
		t.Errorf("with empty lists: %v in\n%s", err, data)
	}
}

func TestSuggest(t *testing.T) {
	words := []string{"endpoint", "provider", "name"}
	for written, want := range map[string]string{
		"endpiont": "endpoint", "Endpoint": "endpoint", "endpoints": "endpoint", "provder": "provider", "nme": "name", "banana": "", "": "", "x": "",
	} {
		got := suggest(written, words)
		if want == "" && got != "" || want != "" && !strings.Contains(got, `"`+want+`"`) {
			t.Errorf("%q: %q, want %q", written, got, want)
		}
	}
}

// TestFiles: what a configuration names is looked into, and problems have their lines.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"components.json": "{}", "measurements.json": "{}", "ca.pem": "none"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	problems := review([]byte(good), dir)
	var lines []int
	for _, p := range problems {
		lines = append(lines, p.Line)
	}
	if !slices.Equal(lines, []int{9, 17, 20}) {
		t.Errorf("problems are %v", problems)
	}
	if problems := review([]byte(good), t.TempDir()); len(problems) != 3 || !strings.Contains(problems[0].Text, "no such file") {
		t.Errorf("problems are %v", problems)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("a: &a [*a, *a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data, "")
		if err != nil {
			return
		}
		again, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		d, err := Parse(again, "")
		if err != nil || !cmp.Equal(c, d, cmpopts.IgnoreUnexported(Config{}), cmpopts.EquateEmpty()) {
			t.Fatalf("what was written is read as something else: %v", err)
		}
	})
}
