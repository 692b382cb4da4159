// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/attestation/attestationtest"
	"github.com/constellation-os/constellation/attestation/policy"
	accepted "github.com/constellation-os/constellation/measurements/policy"
	api "github.com/constellation-os/constellation/services/api/joinservice"
)

// wantTurnedAway: the machine is refused by the channel, and it, the audit log and the
// event have the reason.
func (f *fixture) wantTurnedAway(t testing.TB, err error, reason string) {
	t.Helper()
	if status.Code(err) != codes.Unavailable || !strings.HasSuffix(status.Convert(err).Message(), "the peer refused: "+reason+`"`) {
		t.Errorf("the caller gets %v, want the reason %q", err, reason)
	}
	f.wait(t, "the verdict to be written down", func() bool { return f.events.last().Reason == "MachineRefused" })
	if line := f.lastAudit(t); line["msg"] != kindHandshake || line["verdict"] != "refused" || line["reason"] != reason {
		t.Errorf("audit: %v, want reason %q", line, reason)
	}
	if e := f.events.last(); !e.Warning || !strings.Contains(e.Note, reason+": ") {
		t.Errorf("event: %+v, want reason %q", e, reason)
	}
}

// TestTurnedAway: machines that never get to ask.
func TestTurnedAway(t *testing.T) {
	now := time.Now()
	for _, tc := range []struct {
		name, image string
		sets        []accepted.Set // none: no policy was ever loaded
		unvouched   bool
		reason      string
	}{
		{name: "V7 another machine's TPM", image: image, sets: []accepted.Set{accept(image, time.Time{})}, unvouched: true, reason: "identity"},
		{name: "another image", image: "image-2", sets: []accepted.Set{accept(image, time.Time{})}, reason: "measurements"},
		{name: "an image that expired", image: image, sets: []accepted.Set{accept(image, now.Add(-time.Minute)), accept("image-2", time.Time{})}, reason: "expired"},
		{name: "a machine of another cluster", image: image + "@" + strings.Repeat("ab", 32), sets: []accepted.Set{accept(image, time.Time{})}, reason: "measurements"},
		{name: "V21 no policy", image: image, reason: "policy"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := start(t, nil)
			d := f.device(tc.image)
			f.unvouched[identity(d).Value.String()] = tc.unvouched
			if tc.sets != nil {
				f.load(t, f.document(t, true, tc.sets))
			}
			_, err := f.connect(t, d).IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0))
			f.wantTurnedAway(t, err, tc.reason)
			if names := f.objects.Names(); len(names) != 0 {
				t.Errorf("something is bound: %v", names)
			}
		})
	}
}

// TestUnknownSignature: a device that no technology vouches for at all.
func TestUnknownSignature(t *testing.T) {
	f := start(t, nil)
	f.load(t, f.document(t, true, f.usual()))
	_, err := f.connect(t, attestationtest.NewDevice(image)).IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0))
	f.wantTurnedAway(t, err, "identity")
}

// TestRollOut: during a roll-out two images are accepted, the old one until a date. A
// connection that was made before is judged by that date too.
func TestRollOut(t *testing.T) {
	f := start(t, nil)
	before, after := f.device(image), f.device("image-2")
	until := time.Now().Add(time.Hour)
	f.load(t, f.document(t, false, []accepted.Set{accept(image, until), accept("image-2", time.Time{})},
		entry(before, "worker-1", policy.Worker), entry(after, "worker-2", policy.Worker)))
	c := f.connect(t, before)
	if _, err := c.IssueJoinTicket(t.Context(), join(diskA, "", 0)); err != nil {
		t.Errorf("the old image, in time: %v", err)
	}
	f.offset.Store(int64(2 * time.Hour))
	_, err := c.IssueRejoinTicket(t.Context(), &api.IssueRejoinTicketRequest{DiskUuid: diskA})
	f.wantRefusal(t, err, codes.PermissionDenied, "expired")
	_, err = f.connect(t, before).IssueRejoinTicket(t.Context(), &api.IssueRejoinTicketRequest{DiskUuid: diskA})
	f.wantTurnedAway(t, err, "expired")
	if _, err := f.connect(t, after).IssueJoinTicket(t.Context(), join(diskB, "", 0)); err != nil {
		t.Errorf("the new image: %v", err)
	}
}

// TestLocked: after it has locked itself to the cluster the machine may connect again.
func TestLocked(t *testing.T) {
	f := start(t, nil)
	d := f.device(image)
	f.load(t, f.document(t, true, f.usual()))
	got, err := f.connect(t, d).IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0))
	if err != nil {
		t.Fatal(err)
	}
	d.Image = image + "@" + f.cluster.String()
	b := &boots{t: t, client: f.connect(t, d)}
	if err := b.open(got.Ticket.Id); err != nil {
		t.Error(err)
	}
	if _, err := b.client.IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0)); err != nil {
		t.Error(err)
	}
}
