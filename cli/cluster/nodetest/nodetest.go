// SPDX-License-Identifier: Apache-2.0

// Package nodetest is a node for tests: a Bootstrapper on a real attested channel, that
// does what the test wants and remembers what it was sent.
package nodetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/atls"
	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
)

// Node implements the service of bootstrapper.proto. Its fields are set before it serves.
type Node struct {
	api.UnimplementedBootstrapperServer

	// InitSecretHash is what its surroundings told it; zero refuses every Init.
	InitSecretHash [sha256.Size]byte
	// Kubeconfig is what Init ends with; made if nil.
	Kubeconfig []byte
	// Steps are gone through by Init.
	Steps []api.Step
	// OnStep, if set, is called at each step of each call of Init, counted from 1. An
	// error ends the call.
	OnStep func(call int, step api.Step) error

	mu       sync.Mutex
	statuses int
	requests []*api.InitRequest
	done     map[api.Step]bool
	member   bool
}

// Serve answers on a listener with a prover's channel until ctx is done.
func (n *Node) Serve(ctx context.Context, l net.Listener, issuer attestation.Issuer) error {
	channel, err := atls.ServerProve(issuer, atls.Options{QuotesPerSecond: 1000, QuoteBurst: 1000})
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.Creds(channel), grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second}))
	api.RegisterBootstrapperServer(server, n)
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	return server.Serve(l)
}

// Calls is how often the status was asked for, and what Init was sent.
func (n *Node) Calls() (statuses int, requests []*api.InitRequest) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.statuses, append([]*api.InitRequest(nil), n.requests...)
}

// Status implements api.BootstrapperServer.
func (n *Node) Status(context.Context, *api.StatusRequest) (*api.StatusResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.statuses++
	s := &api.StatusResponse{State: api.State_STATE_WAITING, Image: &api.Image{Name: "constellation", Version: "1", Flavour: "test"}}
	if n.member {
		s.State = api.State_STATE_MEMBER
	}
	return s, nil
}

// Init implements api.BootstrapperServer.
func (n *Node) Init(r *api.InitRequest, stream grpc.ServerStreamingServer[api.InitResponse]) error {
	n.mu.Lock()
	n.requests = append(n.requests, r)
	call := len(n.requests)
	if n.done == nil {
		n.done = map[api.Step]bool{}
	}
	n.mu.Unlock()
	if sha256.Sum256(r.InitSecret) != n.InitSecretHash {
		return Problem(codes.PermissionDenied, "the init secret is not the owner's", &api.Problem{
			Reason: api.Problem_REASON_OWNER, Advice: "send the secret whose hash the machine was told",
		})
	}
	ring, err := keys.Parse(r.GetMasterSecret())
	if err != nil {
		return Problem(codes.InvalidArgument, err.Error(), &api.Problem{Reason: api.Problem_REASON_REQUEST})
	}
	id, err := ring.ClusterID()
	if err != nil {
		return err
	}
	for _, step := range n.Steps {
		if err := n.step(call, step, stream); err != nil {
			return err
		}
	}
	n.mu.Lock()
	n.member = true
	if n.Kubeconfig == nil {
		n.Kubeconfig = Kubeconfig("cluster")
	}
	result := &api.Result{ClusterId: id[:], Kubeconfig: n.Kubeconfig}
	n.mu.Unlock()
	return stream.Send(&api.InitResponse{Message: &api.InitResponse_Result{Result: result}})
}

func (n *Node) step(call int, step api.Step, stream grpc.ServerStreamingServer[api.InitResponse]) error {
	send := func(state api.Progress_State, detail string) error {
		return stream.Send(&api.InitResponse{Message: &api.InitResponse_Progress{Progress: &api.Progress{Step: step, State: state, Detail: detail}}})
	}
	n.mu.Lock()
	done := n.done[step]
	n.mu.Unlock()
	if done {
		return send(api.Progress_STATE_SKIPPED, "done before")
	}
	if err := send(api.Progress_STATE_STARTED, "working"); err != nil {
		return err
	}
	if n.OnStep != nil {
		if err := n.OnStep(call, step); err != nil {
			return err
		}
	}
	n.mu.Lock()
	n.done[step] = true
	n.mu.Unlock()
	return send(api.Progress_STATE_DONE, "done")
}

// Problem is the error of a call that carries a problem.
func Problem(code codes.Code, text string, p *api.Problem) error {
	s, err := status.New(code, text).WithDetails(p)
	if err != nil {
		panic(err)
	}
	return s.Err()
}

var (
	credentialsMu sync.Mutex
	credentials   = map[string]string{}
)

// Kubeconfig is that of a cluster whose authority is the same for the same name, with a
// server that nobody can use.
func Kubeconfig(name string) []byte {
	credentialsMu.Lock()
	defer credentialsMu.Unlock()
	if credentials[name] == "" {
		credentials[name] = certificate(name)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		panic(err)
	}
	encode := func(data []byte) string { return base64.StdEncoding.EncodeToString(data) }
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: kubernetes
  cluster:
    server: https://api.constellation.internal:6443
    certificate-authority-data: %s
users:
- name: kubernetes-admin
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: kubernetes-admin@kubernetes
  context: {cluster: kubernetes, user: kubernetes-admin}
current-context: kubernetes-admin@kubernetes
`, encode([]byte(credentials[name])), encode([]byte(credentials[name])), encode(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})))
}

func certificate(name string) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// Certificate is that of some authority, in PEM.
func Certificate() []byte { return []byte(certificate("authority")) }
