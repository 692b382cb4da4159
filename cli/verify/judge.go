// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/attestation/tpm"
	"github.com/constellation-os/constellation/measurements"
	accepted "github.com/constellation-os/constellation/measurements/policy"
	"github.com/constellation-os/constellation/services/verificationservice/client"
)

// Reasons beside those of package attestation.
const (
	reasonUnreachable  = "unreachable"    // nobody answers there
	reasonNotInCluster = "not-in-cluster" // a machine with the right image that belongs to no cluster
	reasonOtherCluster = "other-cluster"  // one that belongs to another
	reasonDuplicate    = "duplicate"      // one TPM that answers for two nodes
	reasonOtherNode    = "other-node"     // the TPM of another node than was asked
)

// judge makes each node's verdict out of what it answered, and then those that only
// all nodes together show. explained says that there were predictions to explain with.
func (r *report) judge(predictions []*measurements.Prediction, explained bool) {
	for _, n := range r.Nodes {
		n.judge(predictions)
		if n.Reason == attestation.ReasonMeasurements.String() && !explained {
			n.Next = "name the predictions of the accepted images with --measurements, to see which event differs"
		}
	}
	r.refuseDuplicates()
	r.Verdict = verified
	if slices.ContainsFunc(r.Nodes, func(n *result) bool { return n.Verdict != verified }) {
		r.Verdict = refused
	}
}

func (n *result) judge(predictions []*measurements.Prediction) {
	if n.err != nil {
		n.Comparison = tpm.Explanation(n.err)
		n.refuse(reasonOf(n.err), "%s", detail(n.err))
		return
	}
	if g := n.Claims.Grant; n.named && g != nil && g.Name != n.Name {
		n.refuse(reasonOtherNode, "it answered with the TPM that the policy's inventory lists as %s", g.Name)
		return
	}
	n.Verdict = verified
	n.Image = imageOf(n.Claims, predictions)
}

// refuse takes the claims away: what was proven is not what was asked.
func (n *result) refuse(reason, format string, args ...any) {
	n.Verdict, n.Reason, n.Detail, n.Next = refused, reason, fmt.Sprintf(format, args...), next(reason)
	if slices.Contains(noAnswers, reason) {
		n.Verdict = noAnswer
	}
	n.Claims, n.Image = nil, nil
}

// noAnswers are the reasons of nodes that said nothing to judge.
var noAnswers = []string{reasonUnreachable, attestation.ReasonTimeout.String(), attestation.ReasonBusy.String(), attestation.ReasonIssue.String()}

// reasonOf names why a node is refused.
func reasonOf(err error) string {
	if errors.Is(err, client.ErrUnreachable) {
		return reasonUnreachable
	}
	if pcr15, only := clusterMismatch(err); only {
		if bytes.Equal(pcr15, measurements.SHA256.Zero()) {
			return reasonNotInCluster
		}
		return reasonOtherCluster
	}
	return attestation.ReasonOf(err).String()
}

// clusterMismatch is the value of PCR 15 if that alone is why a machine was refused.
func clusterMismatch(err error) (pcr15 measurements.Digest, only bool) {
	var m *tpm.Mismatch
	var e *accepted.Error
	if !errors.As(err, &m) || !errors.As(err, &e) || e.Reason != accepted.ReasonMismatch || !slices.Equal(e.Registers, []int{measurements.ClusterPCR}) {
		return nil, false
	}
	return m.PCRs[measurements.SHA256][measurements.ClusterPCR], true
}

// detail is a refusal without its reason, which is shown on its own.
func detail(err error) string {
	var e *attestation.Error
	if errors.As(err, &e) {
		return e.Err.Error()
	}
	return err.Error()
}

// refuseDuplicates refuses nodes that answered with one TPM: they are one machine, and
// nobody knows which of them.
func (r *report) refuseDuplicates() {
	by := map[string][]*result{}
	for _, n := range r.Nodes {
		if n.Claims == nil {
			continue
		}
		for _, id := range n.Claims.Identities {
			key := string(id.Kind) + " " + id.Value.String()
			by[key] = append(by[key], n)
		}
	}
	for id, same := range by {
		if len(same) < 2 {
			continue
		}
		for _, n := range same {
			n.refuse(reasonDuplicate, "%s answered for %s: it is one machine, not %d", id, names(same), len(same))
		}
	}
}

func names(nodes []*result) string {
	var out []string
	for _, n := range nodes {
		out = append(out, n.Name)
	}
	return strings.Join(out, " and ")
}

// imageOf is the prediction's image whose enforced registers are those that were
// proven, nil if there is none. What it says of the image is the prediction's word.
func imageOf(c *attestation.Claims, predictions []*measurements.Prediction) *measurements.Image {
	for _, p := range predictions {
		same := func(pcr int) bool {
			return bytes.Equal(p.PCRs[measurements.SHA256][pcr], c.PCRs[measurements.SHA256][pcr])
		}
		if len(p.Enforced) > 0 && !slices.ContainsFunc(p.Enforced, func(pcr int) bool { return !same(pcr) }) {
			return &p.Image
		}
	}
	return nil
}

// findUnseen names the machines of the inventory that no node proved to be.
func (r *report) findUnseen(inventory []policy.Entry) {
	for _, e := range inventory {
		if !slices.ContainsFunc(r.Nodes, func(n *result) bool {
			return n.Claims != nil && n.Claims.Grant != nil && n.Claims.Grant.Name == e.Name
		}) {
			r.Unseen = append(r.Unseen, e.Name)
		}
	}
}

// next says what to do about a refusal.
func next(reason string) string {
	if text, ok := advice[reason]; ok {
		return text
	}
	return "verify again; if it is refused again, the machine or somebody on the way changes its evidence: do not trust it"
}

var advice = map[string]string{
	reasonUnreachable:  "see whether the machine runs, and a VerificationService on it: kubectl -n kube-system get pods -o wide -l app.kubernetes.io/name=verificationservice",
	reasonNotInCluster: "it booted the image and waits for a cluster: it holds no key of this one. Whoever lists it as a node is wrong, or lies",
	reasonOtherCluster: "if that cluster is meant, name its identity with --cluster-id; else whoever lists this machine as a node is wrong, or lies",
	reasonDuplicate:    "name each machine once. If these are two machines, one of them lets the other answer in its place: do not trust it",
	reasonOtherNode:    "name it as the inventory does. If that is another machine, this one lets it answer in its place: do not trust it",

	attestation.ReasonTimeout.String():      "verify again with more time (--timeout); see whether the machine is overloaded",
	attestation.ReasonBusy.String():         "others ask it too often: verify again later, or from another address",
	attestation.ReasonIssue.String():        "see why in the log of its VerificationService: kubectl -n kube-system logs -l app.kubernetes.io/name=verificationservice --prefix",
	attestation.ReasonBinding.String():      "whoever answers there shows evidence that is old, or was made for somebody else: do not trust it",
	attestation.ReasonIdentity.String():     "if this TPM is to be trusted, list it in the policy's inventory, or name the authority that certified it (constellation policy create --help)",
	attestation.ReasonMeasurements.String(): "see what differs below; take the node out of the cluster unless you know why",
	attestation.ReasonExpired.String():      "upgrade the node to an image that is still accepted, or prolong the acceptance in the policy",
	attestation.ReasonClock.String():        "switch the machine off and on again, instead of waking it from sleep",
	attestation.ReasonChallenge.String():    "verify again; if it is refused again, its evidence is not by the TPM that it names: do not trust it",
}
