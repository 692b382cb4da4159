// SPDX-License-Identifier: Apache-2.0

package evidence_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/constellation-os/constellation/attestation/api"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/evidence"
	"github.com/constellation-os/constellation/cli/policy"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/tcg"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"constellation": func() { os.Exit(run(os.Args[1:])) }})
}

func run(args []string) int {
	return command.Run(context.Background(), command.New(evidence.Command(), policy.Command()), args, os.Stdout, os.Stderr)
}

// recorded is what two software TPMs once answered, and the images that they booted
// or did not. TestRecord makes it anew.
const recorded = "testdata/recorded"

// The scripts in testdata see the command as people do. They find the recordings,
// and evidence that was changed on its way.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			if err := os.CopyFS(env.WorkDir, os.DirFS(recorded)); err != nil {
				return err
			}
			nonce, err := os.ReadFile(filepath.Join(recorded, "nonce"))
			if err != nil {
				return err
			}
			env.Setenv("NONCE", string(nonce))
			return writeTampered(env.WorkDir)
		},
	})
}

// file is evidence of a TPM as JSON, to be changed.
type file struct {
	Version int    `json:"version"`
	Parts   []part `json:"parts"`
}

type part struct {
	Technology string   `json:"technology"`
	Payload    *payload `json:"payload"`
}

type payload struct {
	Version                 int         `json:"version,omitempty"`
	AttestationKey          []byte      `json:"attestation_key"`
	EndorsementKey          []byte      `json:"endorsement_key"`
	EndorsementCertificates [][]byte    `json:"endorsement_certificates,omitempty"`
	Quote                   []byte      `json:"quote"`
	Signature               []byte      `json:"signature"`
	Banks                   []*api.Bank `json:"banks"`
	EventLog                []byte      `json:"event_log"`
}

func readPayload(path string) (*file, *payload, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, nil, err
	}
	return &f, f.Parts[0].Payload, nil
}

// tampered are changes to evidence.json; two is the other TPM's evidence.
var tampered = map[string]func(one, two *payload) error{
	"signature.json": func(one, _ *payload) error { one.Signature[20] ^= 1; return nil },
	"quote.json":     func(one, _ *payload) error { one.Quote[60] ^= 1; return nil },
	"register.json":  func(one, _ *payload) error { one.Banks[0].Values[9*32] ^= 1; return nil },
	"unselected.json": func(one, _ *payload) error {
		one.Banks[0].Values = append(one.Banks[0].Values, make([]byte, 32)...)
		return nil
	},
	"relabelled.json": func(one, _ *payload) error {
		return changeLog(one, func(e []artifacttest.LogEvent) []artifacttest.LogEvent { e[8].Data = []byte("innocent"); return e })
	},
	"dropped.json": func(one, _ *payload) error {
		return changeLog(one, func(e []artifacttest.LogEvent) []artifacttest.LogEvent { return e[:len(e)-1] })
	},
	"appended.json": func(one, _ *payload) error {
		return changeLog(one, func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			return append(e, artifacttest.LogEvent{PCR: 9, Type: tcg.IPL, Digests: measurements.Sum([]byte("more"))})
		})
	},
	"reordered.json": func(one, _ *payload) error {
		return changeLog(one, func(e []artifacttest.LogEvent) []artifacttest.LogEvent {
			last := len(e) - 1
			e[last], e[last-1] = e[last-1], e[last]
			return e
		})
	},
	"spliced.json": func(one, two *payload) error {
		key, certificates := one.EndorsementKey, one.EndorsementCertificates
		*one = *two
		one.EndorsementKey, one.EndorsementCertificates = key, certificates
		return nil
	},
	"stolen.json": func(one, two *payload) error { one.AttestationKey = two.AttestationKey; return nil },
}

// changeLog makes the event log anew from its events, without their data.
func changeLog(p *payload, change func([]artifacttest.LogEvent) []artifacttest.LogEvent) error {
	log, err := tcg.Parse(p.EventLog)
	if err != nil {
		return err
	}
	var events []artifacttest.LogEvent
	for i := range log.Events {
		e := &log.Events[i]
		if e.Extends() {
			events = append(events, artifacttest.LogEvent{PCR: e.PCR, Type: e.Type, Digests: measurements.Digests{
				measurements.SHA256: e.Digest(tcg.AlgSHA256), measurements.SHA384: e.Digest(tcg.AlgSHA384),
			}})
		}
	}
	p.EventLog = artifacttest.Log(measurements.Algorithms(), change(events)...)
	return nil
}

func writeTampered(dir string) error {
	_, two, err := readPayload(filepath.Join(dir, "two.json"))
	if err != nil {
		return err
	}
	for name, change := range tampered {
		f, one, err := readPayload(filepath.Join(dir, "evidence.json"))
		if err != nil {
			return err
		}
		if err := change(one, two); err != nil {
			return err
		}
		var buf bytes.Buffer
		if err := json.NewEncoder(&buf).Encode(f); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), buf.Bytes(), 0o600); err != nil {
			return err
		}
	}
	return nil
}
