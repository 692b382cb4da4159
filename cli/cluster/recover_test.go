// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/attestationtest"
	"github.com/constellation-os/constellation/cli/cluster"
	"github.com/constellation-os/constellation/cli/cluster/nodetest"
	"github.com/constellation-os/constellation/cli/progress"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/initsecret"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// outage is a workspace whose cluster has so many control planes, all of which wait.
type outage struct {
	*workspace
	plan  cluster.RecoverPlan
	nodes []*nodetest.Node
	id    keys.ClusterID
}

func newOutage(t *testing.T, nodes int) *outage {
	t.Helper()
	w := newWorkspace(t)
	ring, err := keys.Load(w.plan.MasterSecret)
	if err != nil {
		t.Fatal(err)
	}
	o := &outage{workspace: w, plan: cluster.RecoverPlan{
		Config: w.plan.Config, MasterSecret: w.plan.MasterSecret, InitSecret: w.plan.InitSecret, Verifier: w.plan.Verifier,
	}}
	if o.id, err = ring.ClusterID(); err != nil {
		t.Fatal(err)
	}
	for i := range nodes {
		n := &nodetest.Node{
			InitSecretHash: w.node.InitSecretHash, Disk: api.Disk_DISK_NODE, Of: o.id, State: api.State_STATE_JOINING,
			Steps: []api.Step{api.Step_STEP_LOCK, api.Step_STEP_DISK, api.Step_STEP_NODE},
		}
		o.serve(t, fmt.Sprintf("node-%d", i+1), n, w.device)
	}
	return o
}

// serve starts a machine and lists it.
func (o *outage) serve(t *testing.T, name string, n *nodetest.Node, device *attestationtest.Device) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go n.Serve(t.Context(), l, device)
	o.nodes = append(o.nodes, n)
	o.plan.Nodes = append(o.plan.Nodes, cluster.Address{Name: name, Address: l.Addr().String()})
}

func (o *outage) recover(t *testing.T) (out *cluster.Recovered, err error) {
	t.Helper()
	o.reporting(t, func(ctx context.Context, r *progress.Reporter) { out, err = cluster.Recover(ctx, r, o.plan) })
	return out, err
}

// sent is how many of the machines were sent a secret.
func (o *outage) sent() (n int) {
	for _, node := range o.nodes {
		n += len(node.Recoveries())
	}
	return n
}

// TestRecover: all that wait are sent the secret at once, since none of several comes
// back without others; those that are there are left alone.
func TestRecover(t *testing.T) {
	o := newOutage(t, 3)
	o.nodes[2].Join(o.id)
	together := make(chan struct{})
	first := make(chan struct{}, 1)
	for _, n := range o.nodes[:2] {
		n.OnStep = func(_ int, step api.Step) error {
			if step == api.Step_STEP_NODE {
				select {
				case first <- struct{}{}:
					<-together
				default:
					close(together)
				}
			}
			return nil
		}
	}
	out, err := o.recover(t)
	if err != nil {
		t.Fatal(err)
	}
	if want := "node-1 is back\nnode-2 is back\nnode-3 was there: nothing was sent to it\n"; out.Describe() != want || out.ClusterID != o.id.String() {
		t.Errorf("of cluster %s:\n%s", out.ClusterID, out.Describe())
	}
	master, err := keys.Load(o.plan.MasterSecret)
	if err != nil {
		t.Fatal(err)
	}
	want, err := master.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range o.nodes[:2] {
		if r := n.Recoveries(); len(r) != 1 || !bytes.Equal(r[0].GetMasterSecret(), want) || len(r[0].InitSecret) != 32 {
			t.Errorf("node %d was sent %d requests", i+1, len(r))
		}
	}
	if o.sent() != 2 {
		t.Errorf("a secret was sent %d times", o.sent())
	}
	events := strings.Join(o.events(t), ", ")
	for _, want := range []string{"node-1/verify done", "node-1/lock started", "node-2/node done", "node-2 done", "node-3 skipped"} {
		if !strings.Contains(events, want) {
			t.Errorf("%q is not among %s", want, events)
		}
	}

	t.Run("again", func(t *testing.T) {
		out, err := o.recover(t)
		if err != nil || o.sent() != 2 || out.Nodes[0].Outcome != cluster.OutcomeMember {
			t.Errorf("%+v, %v, sent %d times", out, err, o.sent())
		}
	})
}

// TestNothingIsSentToAnybody: if one of the machines is not what it should be.
func TestNothingIsSentToAnybody(t *testing.T) {
	for _, tc := range []struct {
		name    string
		spoil   func(*testing.T, *outage)
		refused attestation.Reason
		text    string
	}{
		{"another image", func(t *testing.T, o *outage) {
			other := *o.device
			other.Image = "another image"
			o.serve(t, "node-3", &nodetest.Node{Disk: api.Disk_DISK_NODE}, &other)
		}, attestation.ReasonMeasurements, "is refused, and nothing was sent to it"},
		{"another TPM", func(t *testing.T, o *outage) {
			o.serve(t, "node-3", &nodetest.Node{Disk: api.Disk_DISK_NODE}, attestationtest.NewDevice("image"))
		}, attestation.ReasonIdentity, "is refused, and nothing was sent to it"},
		{"a blank disk", func(t *testing.T, o *outage) {
			o.serve(t, "node-3", &nodetest.Node{Disk: api.Disk_DISK_FRESH}, o.device)
		}, 0, "node-3 has a blank state disk"},
		{"a disk that cannot be used", func(t *testing.T, o *outage) {
			o.serve(t, "node-3", &nodetest.Node{Disk: api.Disk_DISK_UNUSABLE}, o.device)
		}, 0, "node-3 has a state disk that cannot be used"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := newOutage(t, 2)
			tc.spoil(t, o)
			_, err := o.recover(t)
			var refused *cluster.RefusalError
			if errors.As(err, &refused) != (tc.refused != 0) || refused != nil && refused.Reason() != tc.refused || err == nil || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %v", err)
			}
			if strings.Contains(fmt.Sprint(err), "another machine cannot") {
				t.Errorf("what the others say is noise: %v", err)
			}
			if o.sent() != 0 {
				t.Errorf("a secret was sent %d times", o.sent())
			}
		})
	}
}

// TestWrongSecrets: the machine says which one is wrong, and what to do is said.
func TestWrongSecrets(t *testing.T) {
	t.Run("the init secret", func(t *testing.T) {
		o := newOutage(t, 1)
		o.plan.InitSecret = filepath.Join(o.dir, "other-secret")
		if _, err := initsecret.Create(o.plan.InitSecret); err != nil {
			t.Fatal(err)
		}
		_, err := o.recover(t)
		expectCallError(t, err, api.Problem_REASON_OWNER, "node-1: recover: the init secret is not the owner's\nwhat to do: send the secret whose hash the machine was told")
	})
	t.Run("another cluster's master secret", func(t *testing.T) {
		o := newOutage(t, 1)
		o.plan.MasterSecret = filepath.Join(o.dir, "other.json")
		if err := keys.Generate().Create(o.plan.MasterSecret); err != nil {
			t.Fatal(err)
		}
		_, err := o.recover(t)
		expectCallError(t, err, api.Problem_REASON_OTHER_CLUSTER, "node-1: recover: the disk is of another cluster\nwhat to do: name the master secret of the cluster that this machine was a node of (--master-secret)")
	})
	t.Run("no master secret", func(t *testing.T) {
		o := newOutage(t, 1)
		if err := os.Remove(o.plan.MasterSecret); err != nil {
			t.Fatal(err)
		}
		if _, err := o.recover(t); err == nil || !strings.Contains(err.Error(), "no other brings it back") || o.sent() != 0 {
			t.Errorf("got %v", err)
		}
	})
}

func expectCallError(t *testing.T, err error, reason api.Problem_Reason, text string) {
	t.Helper()
	var failed *cluster.CallError
	if !errors.As(err, &failed) || failed.Reason != reason || err.Error() != text {
		t.Errorf("got %v (%v), want %s", err, failed, text)
	}
}

// TestRecoverGoesOn after a cut connection, and with a node that is at work for itself.
func TestRecoverGoesOn(t *testing.T) {
	for name, failure := range map[string]error{
		"cut":  status.Error(codes.Unavailable, "the connection broke"),
		"busy": nodetest.Problem(codes.Aborted, "it is joining", &api.Problem{Reason: api.Problem_REASON_BUSY}),
	} {
		t.Run(name, func(t *testing.T) {
			o := newOutage(t, 1)
			o.nodes[0].OnStep = func(call int, step api.Step) error {
				if step == api.Step_STEP_DISK && call == 1 {
					return failure
				}
				return nil
			}
			if _, err := o.recover(t); err != nil || o.sent() != 2 {
				t.Errorf("%v, sent %d times", err, o.sent())
			}
		})
	}
}
