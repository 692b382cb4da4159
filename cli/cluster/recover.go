// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/cli/progress"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/initsecret"
	"github.com/constellation-os/constellation/measurements/printable"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// RecoverPlan says whom to bring back, with which files.
type RecoverPlan struct {
	// Config, MasterSecret and InitSecret are files that are read.
	Config, MasterSecret, InitSecret string
	// Nodes are the machines of the control plane.
	Nodes []Address
	// IfNeeded sends nothing if one of them is a member: it gives the others what they
	// need. Machines with a blank disk are left out: they join.
	IfNeeded bool
	// Verifier makes the verifier; Trust.Verifier if nil.
	Verifier func(Trust) (attestation.Verifier, error)
}

// Address is where a machine's bootstrapper is reached, HOST:PORT, and what the machine
// is called in messages.
type Address struct {
	Name, Address string
}

// Recovered is what became of the machines.
type Recovered struct {
	ClusterID string          `json:"cluster_id"`
	Nodes     []RecoveredNode `json:"nodes"`
}

// RecoveredNode is what became of one.
type RecoveredNode struct {
	Name    string  `json:"name"`
	Address string  `json:"address"`
	Outcome Outcome `json:"outcome"`
}

// Outcome is what became of a machine.
type Outcome string

// Outcomes.
const (
	// OutcomeRecovered: it waited, and is back.
	OutcomeRecovered Outcome = "recovered"
	// OutcomeMember: it was a member of the cluster already.
	OutcomeMember Outcome = "member"
	// OutcomeBlank: its disk is blank, so that it joins instead.
	OutcomeBlank Outcome = "blank"
)

// Recover verifies all machines, and then sends the master secret to those that wait for
// it. If one is refused, or is not one that can be brought back, nothing is sent to any.
func Recover(ctx context.Context, r *progress.Reporter, p RecoverPlan) (*Recovered, error) {
	c, err := ReadConfig(p.Config)
	if err != nil {
		return nil, err
	}
	ring, err := keys.Load(p.MasterSecret)
	if err != nil {
		return nil, fmt.Errorf("%w\nwhat to do: name the file that was made when the cluster was (--master-secret): no other brings it back", err)
	}
	defer ring.Wipe()
	id, err := ring.ClusterID()
	if err != nil {
		return nil, err
	}
	secret, err := initsecret.Load(p.InitSecret)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	trust, err := LoadTrust(c, id[:])
	if err != nil {
		return nil, err
	}
	if p.Verifier == nil {
		p.Verifier = Trust.Verifier
	}
	v, err := p.Verifier(trust)
	if err != nil {
		return nil, err
	}
	master, err := ring.Marshal()
	if err != nil {
		return nil, err
	}
	defer clear(master)
	nodes, err := p.verifyAll(ctx, r, v, id[:])
	defer closeAll(nodes)
	if err != nil {
		return nil, err
	}
	if p.IfNeeded && slices.ContainsFunc(nodes, isMember) {
		return nil, ErrMember
	}
	request := &api.RecoverRequest{InitSecret: secret, Keys: &api.RecoverRequest_MasterSecret{MasterSecret: master}}
	out := &Recovered{ClusterID: id.String(), Nodes: make([]RecoveredNode, len(nodes))}
	return out, inParallel(len(nodes), func(i int) error {
		out.Nodes[i] = RecoveredNode{p.Nodes[i].Name, p.Nodes[i].Address, OutcomeRecovered}
		switch {
		case isMember(nodes[i]):
			out.Nodes[i].Outcome = OutcomeMember
			r.End(p.Nodes[i].Name, progress.Skipped, "it is a member of the cluster: nothing to do")
			return nil
		case nodes[i].Status.Disk == api.Disk_DISK_FRESH: // and was let through
			out.Nodes[i].Outcome = OutcomeBlank
			return nil
		}
		return recoverOne(ctx, r, p.Nodes[i].Name, nodes[i], request, id.String())
	})
}

// verifyAll verifies the machines at once, and ends with the first that cannot be brought
// back.
func (p *RecoverPlan) verifyAll(ctx context.Context, r *progress.Reporter, v attestation.Verifier, id []byte) ([]*Node, error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	nodes := make([]*Node, len(p.Nodes))
	err := inParallel(len(p.Nodes), func(i int) error {
		a := p.Nodes[i]
		node, err := verify(ctx, r, a.Name+"/verify", v, id, a.Address)
		if err == nil {
			nodes[i] = node
			if !p.IfNeeded || node.Status.Disk != api.Disk_DISK_FRESH {
				err = recoverable(a.Name, node.Status)
			}
		}
		if err != nil {
			fail(&othersError{err})
		}
		return err
	})
	var first *othersError
	if errors.As(context.Cause(ctx), &first) {
		return nodes, first.err // what the others say of it is noise
	}
	return nodes, err
}

// othersError is why machines are not waited for any more: another one's error.
type othersError struct{ err error }

func (e *othersError) Error() string { return "another machine cannot be brought back" }

func closeAll(nodes []*Node) {
	for _, n := range nodes {
		if n != nil {
			n.Close()
		}
	}
}

func isMember(n *Node) bool { return n.Status.State == api.State_STATE_MEMBER }

// recoverable says why a machine cannot be brought back; nil if it can, or is back.
func recoverable(name string, s *api.StatusResponse) error {
	switch {
	case s.State == api.State_STATE_MEMBER:
		return nil
	case s.Disk == api.Disk_DISK_FRESH:
		return fmt.Errorf("%s has a blank state disk: it never was a node, or lost its disk\nwhat to do: recover the machines that were control planes of this cluster. One without a disk joins anew, once there is one to join", name)
	case s.Disk == api.Disk_DISK_UNUSABLE:
		return fmt.Errorf("%s has a state disk that cannot be used: %s\nwhat to do: see its console; another control plane may bring the cluster back", name, printable.Text(s.Message, maxWords))
	}
	return nil
}

func recoverOne(ctx context.Context, r *progress.Reporter, name string, n *Node, request *api.RecoverRequest, id string) error {
	result, err := n.Recover(ctx, request, CallOptions{
		Progress: func(m *api.Progress) { show(r, name, m) },
		Cut: func(err error) {
			r.Updatef(name, "the connection broke, or the node is at work: trying again: %v", err)
		},
	})
	if err == nil && hex.EncodeToString(result.ClusterId) != id {
		err = errors.New("the node answers with another cluster's identity")
	}
	if err != nil {
		r.End(name, progress.Failed, "%v", err)
		return fmt.Errorf("%s: %w", name, withAdvice(err))
	}
	r.End(name, progress.Done, "it is back")
	return nil
}

// withAdvice says what the owner can do about a node that did not like what it was sent,
// where the node does not.
func withAdvice(err error) error {
	var e *CallError
	if !errors.As(err, &e) || e.Advice != "" {
		return err
	}
	switch e.Reason {
	case api.Problem_REASON_OWNER:
		e.Advice = "name the init secret whose hash the machine was told (--init-secret)"
	case api.Problem_REASON_OTHER_CLUSTER:
		e.Advice = "name the master secret of the cluster that this machine was a node of (--master-secret)"
	}
	return err
}

// inParallel does something so many times at once, and joins the errors in order.
func inParallel(n int, do func(i int) error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = do(i) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// Describe says what became of the machines, a line each.
func (r *Recovered) Describe() string {
	var out strings.Builder
	for _, n := range r.Nodes {
		what := "is back"
		switch n.Outcome {
		case OutcomeMember:
			what = "was there: nothing was sent to it"
		case OutcomeBlank:
			what = "has a blank disk: it joins"
		}
		fmt.Fprintf(&out, "%s %s\n", n.Name, what)
	}
	return out.String()
}
