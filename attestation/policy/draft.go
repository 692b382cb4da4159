// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"

	"github.com/constellation-os/constellation/attestation"
	accepted "github.com/constellation-os/constellation/measurements/policy"
)

// Draft is what a policy for technology "tpm" is made of.
type Draft struct {
	Measurements []accepted.Set
	Authorities  []*x509.Certificate
	Inventory    []Entry
	// FirstComeWorkers is the Document's.
	FirstComeWorkers bool
}

// Marshal makes the document. What Parse would refuse is refused, with its errors.
func (d Draft) Marshal() ([]byte, error) {
	version := Version
	out := document{Version: &version, Technologies: []attestation.Technology{TPM}, Endorsement: &endorsement{Authorities: []string{}, Inventory: []entry{}}, Floors: []Floor{}}
	var err error
	if out.Measurements, err = json.Marshal(accepted.Policy{Version: accepted.Version, Accepted: d.Measurements}); err != nil {
		return nil, err
	}
	for _, c := range d.Authorities {
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
		out.Endorsement.Authorities = append(out.Endorsement.Authorities, string(text))
	}
	for _, e := range d.Inventory {
		out.Endorsement.Inventory = append(out.Endorsement.Inventory, entry{e.Kind, e.Value, e.Name, e.Role})
	}
	if d.FirstComeWorkers {
		out.FirstCome = []string{Worker}
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(out); err != nil {
		return nil, err
	}
	if _, err := Parse(buf.Bytes()); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
