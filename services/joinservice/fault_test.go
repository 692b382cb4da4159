// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/attestationtest"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/joinservice"
	"github.com/constellation-os/constellation/services/joinservice/bindings"
	"github.com/constellation-os/constellation/services/joinservice/parameters"
)

// failing is a keys.Source that fails on demand.
type failing struct {
	keys.Source
	err atomic.Pointer[error]
}

func (s *failing) DataKey(ctx context.Context, p keys.Purpose, id string, length int, v keys.Version) (*keys.DataKey, error) {
	if err := s.err.Load(); err != nil {
		return nil, *err
	}
	return s.Source.DataKey(ctx, p, id, length, v)
}

func (s *failing) fail(err error) { s.err.Store(&err) }

// TestKeyServiceDown: a clear error, nothing bound half, and afterwards it works.
func TestKeyServiceDown(t *testing.T) {
	for name, tc := range map[string]struct {
		class keys.Class
		code  codes.Code
	}{
		"down":        {keys.ClassUnreachable, codes.Unavailable},
		"hanging":     {keys.ClassTimeout, codes.Unavailable},
		"throttling":  {"rate", codes.Unavailable},
		"not granted": {"not-granted", codes.FailedPrecondition},
	} {
		for _, asked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, asked before %v", name, asked), func(t *testing.T) {
				source := &failing{}
				f := start(t, func(o *Options) { source.Source = o.Keys; o.Keys = source })
				f.load(t, f.document(t, true, f.usual()))
				if asked {
					if _, err := f.connect(t, f.device(image)).IssueJoinTicket(t.Context(), join(diskB, "worker-2", 0)); err != nil {
						t.Fatal(err)
					}
				}
				before := len(f.objects.Names())
				c := f.connect(t, f.device(image))
				source.fail(keys.Errorf(tc.class, "it was at 10.96.0.17"))
				_, err := c.IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0))
				f.wantRefusal(t, err, tc.code, "keys")
				if err == nil || !strings.Contains(err.Error(), string(tc.class)) || strings.Contains(err.Error(), "10.96") {
					t.Errorf("the caller is told %v", err)
				}
				if line := f.lastAudit(t); !strings.Contains(line["error"].(string), "10.96.0.17") {
					t.Errorf("the log does not say more: %v", line)
				}
				if n := len(f.objects.Names()); n != before {
					t.Errorf("something is bound: %v", f.objects.Names())
				}
				source.err.Store(nil)
				if _, err := c.IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0)); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestAPIServerDown at each operation of a join, and of what follows: a clear error, and
// the same request again finishes the job.
func TestAPIServerDown(t *testing.T) {
	// An honest run tells how many operations there are.
	honest := func(f *fixture, d *attestationtest.Device) error {
		c := f.connect(t, d)
		got, err := c.IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0))
		if err != nil {
			return err
		}
		g := disk.Generation{}.After()
		if _, err := c.AdvanceGeneration(t.Context(), step(got.Ticket.Id, diskA, disk.Generation{}, g)); err != nil {
			return err
		}
		back, err := c.IssueRejoinTicket(t.Context(), &api.IssueRejoinTicketRequest{DiskUuid: diskA})
		if err != nil {
			return err
		}
		_, err = c.AdvanceGeneration(t.Context(), step(back.Ticket.Id, diskA, g, g.After()))
		return err
	}
	var operations []string
	count := start(t, nil)
	count.load(t, count.document(t, true, count.usual()))
	count.objects.Fault = func(_ context.Context, operation, _ string) error {
		operations = append(operations, operation)
		return nil
	}
	if err := honest(count, count.device(image)); err != nil {
		t.Fatal(err)
	}
	if len(operations) < 10 || !slices.Contains(operations, "create") || !slices.Contains(operations, "update") {
		t.Fatalf("operations: %v", operations)
	}
	for i, operation := range operations {
		t.Run(fmt.Sprintf("%d %s", i, operation), func(t *testing.T) {
			f := start(t, nil)
			f.load(t, f.document(t, true, f.usual()))
			n := 0
			f.objects.Fault = func(context.Context, string, string) error {
				if n++; n == i+1 {
					return errors.New("dial tcp 10.0.0.1:6443: connection refused")
				}
				return nil
			}
			d := f.device(image)
			err := honest(f, d)
			f.wantRefusal(t, err, codes.Unavailable, "api-server")
			if err == nil || strings.Contains(err.Error(), "10.0.0.1") {
				t.Errorf("the caller is told %v", err)
			}
			if line := f.lastAudit(t); !strings.Contains(line["error"].(string), "connection refused") {
				t.Errorf("the log does not say more: %v", line)
			}
			c := f.connect(t, d)
			if back, err := c.IssueRejoinTicket(t.Context(), &api.IssueRejoinTicketRequest{DiskUuid: diskA}); err == nil {
				g := parseGeneration(back.Known)
				if _, err := c.AdvanceGeneration(t.Context(), step(back.Ticket.Id, diskA, g, g.After())); err != nil {
					t.Errorf("it joined, and does not come back: %v", err)
				}
				return
			}
			if _, err := c.IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0)); err != nil {
				t.Errorf("again: %v", err)
			}
		})
	}
}

// TestTwoAtOnce: of several machines that want one name, or one disk, at the same moment
// exactly one gets it; the others get the reason.
func TestTwoAtOnce(t *testing.T) {
	const machines, rounds = 4, 25
	f := start(t, nil)
	f.load(t, f.document(t, true, f.usual()))
	var clients []api.JoinServiceClient
	for range machines * rounds * 2 {
		clients = append(clients, f.connect(t, f.device(image)))
	}
	uuid := func(n int) string { return fmt.Sprintf("%08x-0000-4000-8000-000000000000", n) }
	for _, tc := range []struct {
		name    string
		request func(round, machine int) *api.IssueJoinTicketRequest
		reason  string
	}{
		{"name", func(r, m int) *api.IssueJoinTicketRequest { return join(uuid(r*machines+m), fmt.Sprintf("n-%d", r), 0) }, "name-taken"},
		{"disk", func(r, m int) *api.IssueJoinTicketRequest { return join(uuid(1e6+r), fmt.Sprintf("d-%d-%d", r, m), 0) }, "disk-taken"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for round := range rounds {
				var granted atomic.Int32
				var wg sync.WaitGroup
				for m := range machines {
					c := clients[0]
					clients = clients[1:]
					wg.Go(func() {
						_, err := c.IssueJoinTicket(t.Context(), tc.request(round, m))
						if err == nil {
							granted.Add(1)
						} else if _, r := refusalOf(err); r.Reason != tc.reason {
							t.Errorf("refused with %v", err)
						}
					})
				}
				wg.Wait()
				if n := granted.Load(); n != 1 {
					t.Fatalf("round %d: %d machines have one %s", round, n, tc.name)
				}
			}
		})
	}
}

// TestOneMachineTwice: a machine that asks under two names at once is one node.
func TestOneMachineTwice(t *testing.T) {
	f := start(t, nil)
	f.load(t, f.document(t, true, f.usual()))
	for round := range 25 {
		c := f.connect(t, f.device(image))
		var granted atomic.Int32
		var wg sync.WaitGroup
		for i, uuid := range []string{fmt.Sprintf("%08x-0000-4000-8000-000000000001", round), fmt.Sprintf("%08x-0000-4000-8000-000000000002", round)} {
			wg.Go(func() {
				_, err := c.IssueJoinTicket(t.Context(), join(uuid, fmt.Sprintf("n-%d-%d", round, i), 0))
				if err == nil {
					granted.Add(1)
				} else if _, r := refusalOf(err); r.Reason != "name" {
					t.Errorf("refused with %v", err)
				}
			})
		}
		wg.Wait()
		if n := granted.Load(); n != 1 {
			t.Fatalf("%d names for one machine", n)
		}
	}
}

// TestClaimsLapse: what a request left behind that ended half-way is free again.
func TestClaimsLapse(t *testing.T) {
	f := start(t, nil)
	f.load(t, f.document(t, true, f.usual()))
	crashed := f.connect(t, f.device(image))
	f.objects.Fault = func(_ context.Context, operation, name string) error {
		if operation == "create" && strings.HasPrefix(name, "node-") {
			return errors.New("the service was killed")
		}
		return nil
	}
	_, err := crashed.IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0))
	f.wantRefusal(t, err, codes.Unavailable, "api-server")
	f.objects.Fault = nil
	other := f.connect(t, f.device(image))
	_, err = other.IssueJoinTicket(t.Context(), join(diskB, "worker-1", 0))
	f.wantRefusal(t, err, codes.AlreadyExists, "name-taken")
	f.offset.Store(int64(bindings.ClaimLife + 2*time.Second))
	if _, err := other.IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0)); err != nil {
		t.Errorf("after the claims lapsed: %v", err)
	}
	// The owner's claims do not lapse, however old.
	f.offset.Store(int64(100 * bindings.ClaimLife))
	_, err = crashed.IssueJoinTicket(t.Context(), join(diskB, "worker-1", 0))
	f.wantRefusal(t, err, codes.AlreadyExists, "name-taken")
	_, err = crashed.IssueJoinTicket(t.Context(), join(diskA, "worker-2", 0))
	f.wantRefusal(t, err, codes.PermissionDenied, "disk-taken")
}

// TestV22Limits: neither one machine nor one address takes all.
func TestV22Limits(t *testing.T) {
	for name, change := range map[string]func(*Limits){
		"a device":   func(l *Limits) { l.DeviceRate, l.DeviceBurst = 0.001, 3 },
		"an address": func(l *Limits) { l.AddressRate, l.AddressBurst = 0.001, 3 },
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, func(o *Options) { change(&o.Limits) })
			f.load(t, f.document(t, true, f.usual()))
			c := f.connect(t, f.device(image))
			for range 3 {
				if _, err := c.IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0)); err != nil {
					t.Fatal(err)
				}
			}
			_, err := c.IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0))
			f.wantRefusal(t, err, codes.ResourceExhausted, "rate")
			_, err = f.connect(t, f.device(image)).IssueJoinTicket(t.Context(), join(diskB, "worker-2", 0))
			if name == "a device" && err != nil {
				t.Errorf("another device: %v", err)
			} else if name == "an address" {
				f.wantRefusal(t, err, codes.ResourceExhausted, "rate")
			}
		})
	}
}

// TestNotReady: without the cluster's parameters nobody is admitted.
func TestNotReady(t *testing.T) {
	f := start(t, func(o *Options) { o.Cluster = func() *parameters.Cluster { return nil } })
	f.load(t, f.document(t, true, f.usual()))
	_, err := f.connect(t, f.device(image)).IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0))
	f.wantRefusal(t, err, codes.Unavailable, "not-ready")
	if names := f.objects.Names(); len(names) != 0 {
		t.Errorf("something is bound: %v", names)
	}
}

// TestPolicyReload: joins run while the policy changes; none is lost that connects again,
// and none is granted by a policy that is gone.
func TestPolicyReload(t *testing.T) {
	const machines = 8
	f := start(t, nil)
	f.load(t, f.document(t, true, f.usual()))
	until := time.Now().Add(time.Second)
	var wg sync.WaitGroup
	var joins, again atomic.Int64
	for m := range machines {
		d := f.device(image)
		wg.Go(func() {
			c := f.connect(t, d)
			for time.Now().Before(until) {
				_, err := c.IssueJoinTicket(t.Context(), join(fmt.Sprintf("%08x-0000-4000-8000-000000000000", m), fmt.Sprintf("w-%d", m), 0))
				if err == nil {
					joins.Add(1)
					continue
				}
				if _, r := refusalOf(err); r.Reason != "policy-changed" {
					t.Errorf("refused: %v", err)
					return
				}
				again.Add(1)
				c = f.connect(t, d)
			}
		})
	}
	names := 0
	for time.Now().Before(until) {
		names++
		f.load(t, f.document(t, true, f.usual(), entry(attestationtest.NewDevice(image), fmt.Sprintf("x-%d", names), policy.Worker)))
		time.Sleep(20 * time.Millisecond)
	}
	wg.Wait()
	if joins.Load() == 0 || again.Load() == 0 {
		t.Errorf("%d joins, %d were to connect again: this test saw nothing", joins.Load(), again.Load())
	}
	if line := f.lastAudit(t); line["reason"] != nil && line["reason"] != "policy-changed" {
		t.Errorf("audit: %v", line)
	}
}

// TestV21WeakPolicies are refused when they are loaded, with what is missing named, and
// the old one stays in force.
func TestV21WeakPolicies(t *testing.T) {
	f := start(t, nil)
	good := string(f.document(t, true, f.usual()))
	f.load(t, []byte(good))
	digest := f.Policy.Digest()
	for name, tc := range map[string]struct{ data, says string }{
		"empty":             {"", "ends early"},
		"nothing":           {"{}", "it lacks endorsement.authorities or endorsement.inventory, measurements, technologies, version"},
		"no measurements":   {`{"version":1,"technologies":["tpm"],"measurements":{"version":1,"accepted":[]},"endorsement":{"inventory":[]}}`, "endorsement"},
		"a register less":   {strings.Replace(good, `"11":`, `"10":`, 1), "does not name PCR 11"},
		"anybody as master": {strings.Replace(good, `["worker"]`, `["control-plane"]`, 1), "first_come"},
	} {
		t.Run(name, func(t *testing.T) {
			err := f.Policy.Load([]byte(tc.data))
			if err == nil || !strings.Contains(err.Error(), tc.says) || attestation.ReasonOf(err) != attestation.ReasonPolicy {
				t.Errorf("got %v, want %q", err, tc.says)
			}
		})
	}
	if f.Policy.Digest().String() != digest.String() {
		t.Error("another policy is in force")
	}
	if _, err := f.connect(t, f.device(image)).IssueJoinTicket(t.Context(), join(diskA, "worker-1", 0)); err != nil {
		t.Errorf("by the old policy: %v", err)
	}
}
