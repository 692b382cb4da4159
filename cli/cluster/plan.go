// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/config"
	"github.com/constellation-os/constellation/cli/progress"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/initsecret"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// InitPlan says what to initialise, with which files.
type InitPlan struct {
	// Config, MasterSecret and InitSecret are files that are read.
	Config, MasterSecret, InitSecret string
	// Node is HOST:PORT of the node's bootstrapper, NodeName what it will be called.
	Node, NodeName string
	// Kubeconfig is the file that is written, for an API server at Server, HOST:PORT.
	Kubeconfig, Server string
	// Policy is the file to which the cluster's policy is written.
	Policy string
	// Inventory lists machines that the policy knows beyond the configuration's inventory.
	Inventory []policy.Entry
	// Schedulable lets everybody's pods run on the node: for clusters without workers.
	Schedulable bool
	// IfNeeded leaves a node alone that says it is a member, if the kubeconfig is there.
	IfNeeded bool
	// Verifier makes the verifier; Trust.Verifier if nil.
	Verifier func(Trust) (attestation.Verifier, error)
}

// ErrMember says that nothing was to be done.
var ErrMember = errors.New("the node is a member of the cluster already")

// Initialise verifies the node, makes it the first of the cluster, and writes the
// kubeconfig.
func Initialise(ctx context.Context, r *progress.Reporter, p InitPlan) error {
	c, err := ReadConfig(p.Config)
	if err != nil {
		return err
	}
	ring, err := keys.Load(p.MasterSecret)
	if err != nil {
		return fmt.Errorf("%w\nwhat to do: make one with \"constellation keys generate\"", err)
	}
	defer ring.Wipe()
	id, err := ring.ClusterID()
	if err != nil {
		return err
	}
	secret, err := initsecret.Load(p.InitSecret)
	if err != nil {
		return err
	}
	request, err := InitRequest(c, ring, secret, p.NodeName)
	if err != nil {
		return err
	}
	defer WipeRequest(request)
	request.Schedulable = p.Schedulable
	trust, err := LoadTrust(c, id[:])
	if err != nil {
		return err
	}
	trust.Inventory = append(trust.Inventory, p.Inventory...)
	if p.Verifier == nil {
		p.Verifier = Trust.Verifier
	}
	v, err := p.Verifier(trust)
	if err != nil {
		return err
	}
	node, err := verify(ctx, r, "verify", v, id[:], p.Node)
	if err != nil {
		return err
	}
	defer node.Close()
	if p.IfNeeded && node.Status.State == api.State_STATE_MEMBER && exists(p.Kubeconfig) {
		return ErrMember
	}
	if request.Policy, err = p.policy(trust, node); err != nil {
		return err
	}
	result, err := node.Init(ctx, request, CallOptions{
		Progress: func(m *api.Progress) { show(r, "init", m) },
		Cut:      func(err error) { r.Updatef("init", "the connection broke, trying again: %v", err) },
	})
	if err != nil {
		return err
	}
	if hex.EncodeToString(result.ClusterId) != id.String() {
		return errors.New("the node answers with another cluster's identity")
	}
	r.Begin("kubeconfig", "%s", p.Kubeconfig)
	credentials, err := ParseKubeconfig(result.Kubeconfig)
	if err != nil {
		return err
	}
	if p.Server == "" {
		p.Server = c.Endpoint
	}
	if err := credentials.WriteKubeconfig(p.Kubeconfig, c.Name, p.Server); err != nil {
		return err
	}
	r.End("kubeconfig", progress.Done, "%s: credentials of the cluster's administrator", p.Kubeconfig)
	return nil
}

// policy makes the cluster's policy, in which the node is one of the control plane, and
// writes it to its file: before Init, after which the cluster goes by it.
func (p *InitPlan) policy(t Trust, n *Node) ([]byte, error) {
	t, err := t.With(n.Claims, attestation.Grant{Name: p.NodeName, Role: policy.ControlPlane})
	if err != nil {
		return nil, fmt.Errorf("%w\nwhat to do: name the node so (--node-name), or correct the inventory", err)
	}
	data, err := t.Policy()
	if err != nil {
		return nil, err
	}
	return data, writePolicy(p.Policy, data)
}

// writePolicy writes the file, whole or not at all. One that is there is replaced if it is
// a policy; an empty path is none.
func writePolicy(path string, data []byte) error {
	if path == "" {
		return nil
	}
	switch old, err := command.ReadFile(path, policy.MaxSize); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		if _, err := policy.Parse(old); err != nil {
			return fmt.Errorf("%s exists, is no policy and is not overwritten: remove it, or name another file (--policy)", path)
		}
	}
	return replace(path, data)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// ReadConfig reads a configuration.
func ReadConfig(path string) (*config.Config, error) {
	data, err := command.ReadFile(path, config.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("%w\nwhat to do: make one with \"constellation config generate\"", err)
	}
	c, err := config.Parse(data, filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("%s:\n%w", path, err)
	}
	return c, nil
}

// verify connects to a node and says what was found.
func verify(ctx context.Context, r *progress.Reporter, step string, v attestation.Verifier, clusterID []byte, address string) (*Node, error) {
	r.Begin(step, "the node at %s", address)
	node, err := Connect(ctx, address, v, nil, func(error) { r.Updatef(step, "waiting for %s", address) })
	if err != nil {
		r.End(step, progress.Failed, "%v", err)
		return nil, err
	}
	verified := node.Verified(clusterID)
	for _, line := range verified.Describe() {
		r.Updatef(step, "%s", line)
	}
	r.End(step, progress.Done, "the node is what the policy wants")
	return node, nil
}

// Verified is what the node was found to be.
func (n *Node) Verified(clusterID []byte) Verified {
	return Verified{Address: n.Address, State: StateOf(n.Claims, clusterID), Claims: n.Claims}
}

// show reports a node's progress, as steps of something.
func show(r *progress.Reporter, of string, p *api.Progress) {
	states := map[api.Progress_State]progress.State{
		api.Progress_STATE_STARTED: progress.Started, api.Progress_STATE_UPDATE: progress.Update,
		api.Progress_STATE_DONE: progress.Done, api.Progress_STATE_SKIPPED: progress.Skipped,
	}
	state, ok := states[p.State]
	if !ok {
		state = progress.Update
	}
	r.Report(progress.Event{State: state, Step: of + "/" + StepName(p.Step), Text: p.Detail, Done: max(p.Done, 0), Total: max(p.Total, 0)})
}
