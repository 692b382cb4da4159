// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/printable"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// Verified is what a node was found to be, for people and programs.
type Verified struct {
	Address string              `json:"address"`
	State   string              `json:"state"`
	Claims  *attestation.Claims `json:"claims"`
}

// Describe says what was verified, a line each.
func (v Verified) Describe() []string {
	c := v.Claims
	lines := []string{fmt.Sprintf("booted %s, proven by %s", c.Image, c.Technology)}
	for _, id := range c.Identities {
		lines = append(lines, fmt.Sprintf("%s %s", id.Kind, id.Value))
	}
	lines = append(lines, "proven: "+join(c.Properties), "not proven: "+join(c.Properties.Missing()), v.State)
	return lines
}

func join(ps []attestation.Property) string {
	names := make([]string, len(ps))
	for i, p := range ps {
		names[i] = string(p)
	}
	return strings.Join(names, ", ")
}

// States of a node, as PCR 15 tells them.
const (
	StateUntouched = "it belongs to no cluster yet"
	StateMember    = "it belongs to this cluster already"
	StateUnknown   = "its technology does not tell whether it belongs to a cluster"
)

// StateOf reads PCR 15: zero, or extended once with the cluster's identity. The policy
// has let in nothing else.
func StateOf(c *attestation.Claims, clusterID []byte) string {
	value, ok := c.PCRs[measurements.SHA256][measurements.ClusterPCR]
	switch {
	case !ok:
		return StateUnknown
	case len(bytes.Trim(value, "\x00")) == 0:
		return StateUntouched
	case len(clusterID) > 0:
		return StateMember
	}
	return StateUnknown
}

// describe joins what the node proved with what it says.
func (n *Node) describe(clusterID []byte) nodeStatus {
	s := n.Status
	out := nodeStatus{
		Verified: n.Verified(clusterID),
		State:    strings.ToLower(strings.TrimPrefix(s.State.String(), "STATE_")),
		Message:  printable.Text(s.Message, maxWords),
		Image:    printable.Text(strings.Join([]string{s.Image.GetName(), s.Image.GetFlavour(), s.Image.GetVersion()}, " "), maxWords),
	}
	if s.Step != api.Step_STEP_UNSPECIFIED {
		out.Step = StepName(s.Step)
	}
	if len(s.ClusterId) == measurements.ClusterIDSize {
		out.ClusterID = hex.EncodeToString(s.ClusterId)
	}
	return out
}

func (s nodeStatus) write(w io.Writer) error {
	fmt.Fprintf(w, "verified  %s\n", s.Address)
	for _, line := range s.Describe() {
		fmt.Fprintf(w, "  %s\n", line)
	}
	fmt.Fprintf(w, "the node says\n  it is %s, of image %s\n", s.State, s.Image)
	if s.Step != "" {
		fmt.Fprintf(w, "  it is at step %s\n", s.Step)
	}
	if s.ClusterID != "" {
		fmt.Fprintf(w, "  its cluster is %s\n", s.ClusterID)
	}
	if s.Message != "" {
		fmt.Fprintf(w, "  %s\n", s.Message)
	}
	return nil
}

// Sentence is what a node says it is at.
func Sentence(s *api.StatusResponse) string {
	text := strings.ToLower(strings.TrimPrefix(s.State.String(), "STATE_"))
	if s.Step != api.Step_STEP_UNSPECIFIED {
		text += ", step " + StepName(s.Step)
	}
	if s.Message != "" {
		text += ": " + printable.Text(s.Message, maxWords)
	}
	return text
}

func parseClusterID(text string) ([]byte, error) {
	id, err := hex.DecodeString(text)
	if err != nil || len(id) != measurements.ClusterIDSize {
		return nil, fmt.Errorf("--cluster-id: want %d hexadecimal digits", 2*measurements.ClusterIDSize)
	}
	return id, nil
}

const journalLines = 40

// lastLines are the last of a text, without control characters.
func lastLines(text []byte, n int) []string {
	var lines []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, printable.Text(line, maxLine))
		}
	}
	return lines[max(0, len(lines)-n):]
}

const maxLine = 400 // bytes of a line that is shown
