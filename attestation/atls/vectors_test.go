// SPDX-License-Identifier: Apache-2.0

package atls

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/attestation"
)

var update = flag.Bool("update", false, "write testdata/vectors.json from the layouts in this test")

// vectors is testdata/vectors.json (docs/atls.md, section 8). Bytes are hexadecimal.
type vectors struct {
	Hellos []struct {
		Name    string   `json:"name"`
		Role    int      `json:"role"`
		Nonce   string   `json:"nonce"`
		Offers  []string `json:"offers"`
		Demands []string `json:"demands"`
		Frame   string   `json:"frame"`
	} `json:"hellos"`
	Bindings []struct {
		Exporter    string `json:"exporter"`
		ClientNonce string `json:"client_nonce"`
		ServerNonce string `json:"server_nonce"`
		Role        int    `json:"role"`
		Version     int    `json:"version"`
		Binding     string `json:"binding"`
	} `json:"bindings"`
	Results []struct {
		Reason  int    `json:"reason"`
		RetryMS int64  `json:"retry_ms"`
		Frame   string `json:"frame"`
	} `json:"results"`
	Evidence []struct {
		Technology string `json:"technology"`
		Payload    string `json:"payload"`
		Frame      string `json:"frame"`
	} `json:"evidence"`
	Refused []struct {
		Name   string `json:"name"`
		Frame  string `json:"frame"`
		Reason string `json:"reason"`
	} `json:"refused"`
}

// TestVectors compares three things: the file, this package, and the layouts of
// the specification as byHand writes them out, which uses nothing of the package.
func TestVectors(t *testing.T) {
	want := byHand(t)
	if *update {
		data, err := json.MarshalIndent(want, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("testdata/vectors.json", append(data, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var file vectors
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, file); diff != "" {
		t.Errorf("the file is not what the layouts give (-layout +file):\n%s", diff)
	}
	for _, v := range file.Hellos {
		h := &hello{version: 1, role: role(v.Role), nonce: nonce(unhex(t, v.Nonce)), offers: technologies(v.Offers), demands: technologies(v.Demands)}
		checkFrame(t, v.Name, frameHello, h.marshal(), v.Frame)
	}
	for _, v := range file.Bindings {
		got := binding(unhex(t, v.Exporter), nonce(unhex(t, v.ClientNonce)), nonce(unhex(t, v.ServerNonce)), role(v.Role), uint16(v.Version))
		if hex.EncodeToString(got[:]) != v.Binding {
			t.Errorf("binding of role %d is %x, want %s", v.Role, got, v.Binding)
		}
	}
	for _, v := range file.Results {
		checkFrame(t, "result", frameResult, result(attestation.Reason(v.Reason), time.Duration(v.RetryMS)*time.Millisecond), v.Frame)
	}
	for _, v := range file.Evidence {
		body, err := attestation.NewEvidence(attestation.Technology(v.Technology), unhex(t, v.Payload)).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		checkFrame(t, "evidence", frameEvidence, body, v.Frame)
	}
	for _, v := range file.Refused {
		_, body, err := readFrame(bytes.NewReader(unhex(t, v.Frame)), frameHello)
		if err == nil {
			_, err = parseHello(body)
		}
		if got := attestation.ReasonOf(err); got.String() != v.Reason {
			t.Errorf("%s: refused with %v, want %s", v.Name, got, v.Reason)
		}
	}
}

func checkFrame(t *testing.T, name string, f frameType, body []byte, want string) {
	t.Helper()
	if got := hex.EncodeToString(frame(t, f, body)); got != want {
		t.Errorf("%s: the frame is %s, want %s", name, got, want)
	}
}

func technologies(names []string) (out []attestation.Technology) {
	for _, n := range names {
		out = append(out, attestation.Technology(n))
	}
	return out
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// byHand spells the vectors out from the tables of docs/atls.md.
func byHand(t *testing.T) vectors {
	t.Helper()
	seq := func(first byte, n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = first + byte(i)
		}
		return hex.EncodeToString(b)
	}
	clientNonce, serverNonce, secret := seq(0x00, 32), seq(0x20, 32), seq(0x40, 32)
	ascii := func(s string) string { return hex.EncodeToString([]byte(s)) }

	frames := map[string]any{
		"hellos": []map[string]any{
			{"name": "a client that proves itself and demands proof", "role": 1, "nonce": clientNonce, "offers": []string{"tpm"}, "demands": []string{"sevsnp+tpm", "tpm"},
				"frame": "01000038" + "0001" + "01" + clientNonce + "01" + "03" + ascii("tpm") + "02" + "0a" + ascii("sevsnp+tpm") + "03" + ascii("tpm")},
			{"name": "a server that proves itself to anybody", "role": 2, "nonce": serverNonce, "offers": []string{"tpm"}, "demands": nil,
				"frame": "01000029" + "0001" + "02" + serverNonce + "01" + "03" + ascii("tpm") + "00"},
		},
		"results": []map[string]any{
			{"reason": 0, "retry_ms": 0, "frame": "05000006" + "0000" + "00000000"},
			{"reason": 33, "retry_ms": 0, "frame": "05000006" + "0021" + "00000000"},
			{"reason": 8, "retry_ms": 1500, "frame": "05000006" + "0008" + "000005dc"},
		},
		"evidence": []map[string]any{
			{"technology": "tpm", "payload": "0801", "frame": "0200000d" + "0801" + "1209" + "0a03" + ascii("tpm") + "1202" + "0801"},
		},
		"refused": []map[string]any{
			{"name": "a frame of unknown type", "frame": "06000000", "reason": "malformed"},
			{"name": "a hello that announces 16 MiB", "frame": "01ffffff", "reason": "too-large"},
			{"name": "a hello of version 2", "frame": "01000002" + "0002", "reason": "version"},
			{"name": "evidence where a hello belongs", "frame": "02000000", "reason": "unexpected-message"},
			{"name": "a hello that is cut short within its lists", "frame": "01000025" + "0001" + "01" + clientNonce + "01" + "03", "reason": "malformed"},
		},
	}
	bindings := []map[string]any{}
	for role, roleHex := range map[int]string{1: "01", 2: "02"} {
		sum := sha512.Sum512(unhex(t, ascii("constellation atls binding v1")+secret+clientNonce+serverNonce+roleHex+"0001"))
		bindings = append(bindings, map[string]any{"exporter": secret, "client_nonce": clientNonce, "server_nonce": serverNonce, "role": role, "version": 1, "binding": hex.EncodeToString(sum[:])})
	}
	if bindings[0]["role"] == 2 {
		bindings[0], bindings[1] = bindings[1], bindings[0]
	}
	frames["bindings"] = bindings
	data, err := json.Marshal(frames)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}
