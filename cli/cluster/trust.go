// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/measurements"
	accepted "github.com/constellation-os/constellation/measurements/policy"
)

// Trust is what nodes are verified by.
type Trust struct {
	// Predictions of the accepted images, accepted until NotAfter.
	Predictions []*measurements.Prediction
	NotAfter    time.Time
	// ClusterID, if not empty, lets in nodes that belong to this cluster already.
	ClusterID []byte
	// Authorities and Inventory say whose TPMs are trusted.
	Authorities []*x509.Certificate
	Inventory   []policy.Entry
	// FirstComeWorkers lets machines become workers that the inventory does not list.
	FirstComeWorkers bool
}

// Verifier makes the verifier.
func (t Trust) Verifier() (attestation.Verifier, error) {
	document, err := t.document()
	if err != nil {
		return nil, err
	}
	return tpm.NewVerifier(document, tpm.VerifierOptions{Predictions: t.Predictions})
}

// document is the policy.
func (t Trust) document() (*policy.Document, error) {
	data, err := t.Policy()
	if err != nil {
		return nil, err
	}
	return policy.Parse(data)
}

// Policy is the document (package attestation/policy) that says the same.
func (t Trust) Policy() ([]byte, error) {
	draft := policy.Draft{Authorities: t.Authorities, Inventory: t.Inventory, FirstComeWorkers: t.FirstComeWorkers}
	for _, p := range t.Predictions {
		set, err := accepted.FromPrediction(p, p.Image.Name+" "+p.Image.Flavour+" "+p.Image.Version, t.NotAfter)
		if err != nil {
			return nil, err
		}
		if len(t.ClusterID) > 0 {
			node := p.Initialized(t.ClusterID).PCRs
			set.PCRs[measurements.ClusterPCR] = append(set.PCRs[measurements.ClusterPCR], accepted.Value{
				SHA256: node[measurements.SHA256][measurements.ClusterPCR], SHA384: node[measurements.SHA384][measurements.ClusterPCR], NotAfter: t.NotAfter,
			})
		}
		draft.Measurements = append(draft.Measurements, *set)
	}
	return draft.Marshal()
}

// With also lists a machine that was verified, which will have this name and role. If the
// inventory lists it already, it must be so.
func (t Trust) With(c *attestation.Claims, grant attestation.Grant) (Trust, error) {
	id, ok := endorsementKey(c)
	if !ok { // no inventory can list it
		return t, nil
	}
	for _, e := range t.Inventory {
		same := e.Kind == id.Kind && bytes.Equal(e.Value, id.Value)
		switch {
		case same && e.Grant == grant:
			return t, nil
		case same:
			return t, fmt.Errorf("the inventory lists this machine as %s, %s, and not as %s, %s", e.Name, e.Role, grant.Name, grant.Role)
		case e.Name == grant.Name:
			return t, fmt.Errorf("the inventory lists another machine as %s", grant.Name)
		}
	}
	t.Inventory = append(slices.Clone(t.Inventory), policy.Entry{Identity: id, Grant: grant})
	return t, nil
}

// endorsementKey is the TPM's among the devices that vouched.
func endorsementKey(c *attestation.Claims) (attestation.Identity, bool) {
	i := slices.IndexFunc(c.Identities, func(id attestation.Identity) bool { return id.Kind == attestation.EndorsementKey })
	if i < 0 {
		return attestation.Identity{}, false
	}
	return c.Identities[i], true
}
