// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/disk"
	api "github.com/constellation-os/constellation/services/api/joinservice"
)

func step(ticket, uuid string, from, to disk.Generation) *api.AdvanceGenerationRequest {
	return &api.AdvanceGenerationRequest{TicketId: ticket, DiskUuid: uuid, From: generation(from), To: generation(to)}
}

// boots is a node that opens its disk at each boot, as package disk does.
type boots struct {
	t      testing.TB
	client api.JoinServiceClient
	now    disk.Generation
}

func (b *boots) rejoin() *api.IssueRejoinTicketResponse {
	b.t.Helper()
	got, err := b.client.IssueRejoinTicket(b.t.Context(), &api.IssueRejoinTicketRequest{DiskUuid: diskA})
	if err != nil {
		b.t.Fatal(err)
	}
	return got
}

func (b *boots) open(ticket string) error {
	b.t.Helper()
	next := b.now.After()
	_, err := b.client.AdvanceGeneration(b.t.Context(), step(ticket, diskA, b.now, next))
	if err == nil {
		b.now = next
	}
	return err
}

// joined is a node that has joined, and opened its disk once.
func joined(t *testing.T, f *fixture, role string) *boots {
	t.Helper()
	d := f.device(image)
	f.load(t, f.document(t, false, f.usual(), entry(d, "node-1", role)))
	b := &boots{t: t, client: f.connect(t, d)}
	got, err := b.client.IssueJoinTicket(t.Context(), join(diskA, "", 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.open(got.Ticket.Id); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRejoin(t *testing.T) {
	f := start(t, nil)
	b := joined(t, f, policy.ControlPlane)
	for range 3 {
		got := b.rejoin()
		if parseGeneration(got.Known) != b.now || got.NodeName != "node-1" || got.Role != api.Role_ROLE_CONTROL_PLANE || got.ControlPlane == nil {
			t.Errorf("known %v, %s as %v", got.Known, got.NodeName, got.Role)
		}
		if err := b.open(got.Ticket.Id); err != nil {
			t.Fatal(err)
		}
	}
	if line := f.lastAudit(t); line["msg"] != kindGeneration || line["verdict"] != "granted" || line["to"] != 4.0 || line["name"] != "node-1" {
		t.Errorf("audit: %v", line)
	}
}

// TestV14RolledBack: an older copy of the disk is refused, with what the cluster knows.
func TestV14RolledBack(t *testing.T) {
	f := start(t, nil)
	b := joined(t, f, policy.Worker)
	older := b.now
	if err := b.open(b.rejoin().Ticket.Id); err != nil {
		t.Fatal(err)
	}
	newest := b.now
	b.now = older
	ticket := b.rejoin().Ticket.Id
	err := b.open(ticket)
	f.wantRefusal(t, err, codes.FailedPrecondition, "rolled-back")
	if _, r := refusalOf(err); parseGeneration(r.Known) != newest {
		t.Errorf("known is %v, want %v", r.Known, newest)
	}
	b.now = disk.Generation{}
	f.wantRefusal(t, b.open(ticket), codes.FailedPrecondition, "rolled-back")
	// The ticket was not used: the right disk opens with it.
	b.now = newest
	if err := b.open(ticket); err != nil {
		t.Error(err)
	}
}

// TestTickets: each is good for one step, for a while, for one machine.
func TestTickets(t *testing.T) {
	f := start(t, nil)
	b := joined(t, f, policy.Worker)
	ticket := b.rejoin().Ticket.Id
	from, to := b.now, b.now.After()
	for range 2 { // the answer to the first may have been lost
		if _, err := b.client.AdvanceGeneration(t.Context(), step(ticket, diskA, from, to)); err != nil {
			t.Fatal(err)
		}
	}
	b.now = to
	f.wantRefusal(t, b.open(ticket), codes.FailedPrecondition, "ticket")
	f.wantRefusal(t, b.open("0123456789abcdef0123456789abcdef"), codes.FailedPrecondition, "ticket")
	f.wantRefusal(t, b.open(""), codes.FailedPrecondition, "ticket")

	replaced := b.rejoin().Ticket.Id
	ticket = b.rejoin().Ticket.Id
	f.wantRefusal(t, b.open(replaced), codes.FailedPrecondition, "ticket")

	f.offset.Store(int64(ticketLife + 2*time.Second))
	f.wantRefusal(t, b.open(ticket), codes.FailedPrecondition, "ticket")
	f.offset.Store(0)

	other := f.device(image)
	_, err := f.connect(t, other).AdvanceGeneration(t.Context(), step(ticket, diskA, b.now, b.now.After()))
	f.wantRefusal(t, err, codes.NotFound, "unknown-node")
	_, err = b.client.AdvanceGeneration(t.Context(), step(ticket, diskB, b.now, b.now.After()))
	f.wantRefusal(t, err, codes.FailedPrecondition, "disk")
	if err := b.open(ticket); err != nil {
		t.Errorf("after all that it is good: %v", err)
	}
}

func TestStepsThatNoDiskTakes(t *testing.T) {
	f := start(t, nil)
	b := joined(t, f, policy.Worker)
	ticket := b.rejoin().Ticket.Id
	next := b.now.After()
	for name, s := range map[string][2]disk.Generation{
		"nowhere":       {b.now, {}},
		"in place":      {b.now, b.now},
		"too far":       {b.now, next.After()},
		"back":          {next, b.now},
		"the same id":   {b.now, {Number: b.now.Number + 1, ID: b.now.ID}},
		"without an id": {b.now, {Number: b.now.Number + 1}},
		"number zero":   {disk.Generation{ID: next.ID}, {Number: 1, ID: b.now.ID}},
		"an endless id": {b.now, {Number: b.now.Number + 1, ID: next.ID + next.ID}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.client.AdvanceGeneration(t.Context(), step(ticket, diskA, s[0], s[1]))
			f.wantRefusal(t, err, codes.InvalidArgument, "request")
		})
	}
}

// TestGrantTakenAway: a node that the policy no longer grants what it joined as does not
// come back.
func TestGrantTakenAway(t *testing.T) {
	for name, tc := range map[string]struct {
		name, role string
		firstCome  bool
		code       codes.Code
		reason     string
	}{
		"another role":                     {"node-1", policy.Worker, false, codes.PermissionDenied, "role"},
		"another name":                     {"node-2", policy.ControlPlane, false, codes.PermissionDenied, "name"},
		"no longer listed":                 {"", "", false, codes.PermissionDenied, "not-listed"},
		"no longer listed, workers may be": {"", "", true, codes.PermissionDenied, "role"},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, nil)
			b := joined(t, f, policy.ControlPlane)
			d := f.devices[0]
			inventory := []policy.Entry{}
			if tc.name != "" {
				inventory = append(inventory, entry(d, tc.name, tc.role))
			}
			f.load(t, f.document(t, tc.firstCome, f.usual(), inventory...))
			_, err := b.client.IssueRejoinTicket(t.Context(), &api.IssueRejoinTicketRequest{DiskUuid: diskA})
			f.wantRefusal(t, err, codes.Unavailable, "policy-changed")
			_, err = f.connect(t, d).IssueRejoinTicket(t.Context(), &api.IssueRejoinTicketRequest{DiskUuid: diskA})
			f.wantRefusal(t, err, tc.code, tc.reason)
		})
	}
}
