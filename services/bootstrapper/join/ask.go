// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/atls"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/disk"
	api "github.com/constellation-os/constellation/services/api/joinservice"
	"github.com/constellation-os/constellation/services/provider"
)

// Port is the TCP port of a cluster's JoinService.
const Port = 9444

// How long a handshake may take, with two TPMs that are slow, and a request.
const (
	handshakeTime = 90 * time.Second
	requestTime   = 2 * time.Minute // with the handshake
)

// maxTicket is the size of a ticket in bytes: a component set and the control plane's
// files.
const maxTicket = 1 << 20

// Asker asks for tickets.
type Asker struct {
	Provider provider.Provider
	// Issuer proves what this machine booted.
	Issuer attestation.Issuer
	// Judge makes the verifier of a policy.
	Judge func(*policy.Document) (attestation.Verifier, error)
	// Port of the services; Port if zero.
	Port int
	// Now is this machine's clock; the system's if nil.
	Now func() time.Time
}

func (a *Asker) now() time.Time {
	if a.Now != nil {
		return a.Now()
	}
	return time.Now()
}

// Disk is the state disk that a ticket is asked for.
type Disk struct {
	UUID string
	// Fresh: it has no content yet, and the machine is no node.
	Fresh bool
}

// ErrNoCluster says that the surroundings know of no cluster.
var ErrNoCluster = errors.New("the machine was told of no cluster to join")

// Refusal is a service's.
type Refusal struct {
	Address, Reason, Message, Advice string
}

// Error implements error.
func (r *Refusal) Error() string { return fmt.Sprintf("%s refuses: %s", r.Address, r.Message) }

// Ask asks one control plane after the other. Its error says what each has answered.
func (a *Asker) Ask(ctx context.Context, d Disk) (*Ticket, error) {
	t, err := a.find(ctx)
	if err != nil {
		return nil, err
	}
	if t == nil {
		return nil, ErrNoCluster
	}
	var errs []error
	for _, address := range t.addresses {
		ticket, err := a.askAt(ctx, t, address, d)
		if err == nil {
			return ticket, nil
		}
		errs = append(errs, err)
		// The others have the same policy, and know the same nodes.
		if r := (*Refusal)(nil); errors.As(err, &r) && !r.temporary() {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// temporary says whether another service, or the same one later, may decide otherwise
// while nobody changes anything.
func (r *Refusal) temporary() bool {
	switch r.Reason {
	case "rate", "policy-changed", "keys", "api-server", "not-ready", "cancelled", "internal":
		return true
	}
	return false
}

func (a *Asker) askAt(ctx context.Context, t *target, address string, d Disk) (*Ticket, error) {
	s, err := a.connect(t, address)
	if err != nil {
		return nil, err
	}
	ticket, err := s.ask(ctx, t, d)
	if err == nil {
		if err = ticket.checkClock(a.now()); err != nil {
			err = fmt.Errorf("%s: its ticket cannot be used: %w", s.host(), err)
			ticket.Close()
		}
	}
	if err != nil {
		s.close()
		return nil, err
	}
	ticket.witness = &witness{ticket: ticket.id, first: s, connect: func(address string) (*service, error) { return a.connect(t, address) }, addresses: t.addresses}
	return ticket, nil
}

// service is a JoinService at an address.
type service struct {
	address string
	conn    *grpc.ClientConn
	client  api.JoinServiceClient

	mu   sync.Mutex
	last error // of a handshake: gRPC keeps it to itself
}

func (a *Asker) connect(t *target, address string) (*service, error) {
	s := &service{address: address}
	channel, err := atls.ClientMutual(a.Issuer, []attestation.Verifier{t.verifier}, atls.Options{Timeout: handshakeTime, Observe: func(o atls.Outcome) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.last = o.Err
	}})
	if err != nil {
		return nil, err
	}
	s.conn, err = grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(channel), grpc.WithNoProxy(),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: handshakeTime}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxTicket)))
	if err != nil {
		return nil, err
	}
	s.client = api.NewJoinServiceClient(s.conn)
	return s, nil
}

func (s *service) close() { s.conn.Close() }

// call gives an error the reason that the service, or the channel, has for it.
func (s *service) call(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	s.mu.Lock()
	s.last = nil
	s.mu.Unlock()
	err := do(ctx)
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	for _, detail := range st.Details() {
		if r, ok := detail.(*api.Refusal); ok {
			out := &Refusal{Address: s.host(), Reason: r.Reason, Message: st.Message(), Advice: r.Advice}
			if out.Reason == rolledBack {
				return &knownError{out, disk.Generation{Number: r.Known.GetNumber(), ID: r.Known.GetId()}}
			}
			return out
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.last != nil:
		return fmt.Errorf("%s: %w", s.host(), s.last)
	case st.Code() == codes.DeadlineExceeded:
		return fmt.Errorf("%s does not answer within %v", s.host(), requestTime)
	}
	return fmt.Errorf("%s: %s", s.host(), plain(st.Message()))
}

// plain is what gRPC says of a connection that there is not, without its wrapping.
func plain(message string) string {
	_, inner, found := strings.Cut(message, "Error while dialing: ")
	if !found {
		return message
	}
	return strings.TrimSuffix(inner, `"`)
}

// host is the address for people: the port is always the same.
func (s *service) host() string {
	host, _, err := net.SplitHostPort(s.address)
	if err != nil {
		return s.address
	}
	return host
}
