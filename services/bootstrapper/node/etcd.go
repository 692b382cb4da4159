// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// etcd's ports, and its authority, by kubeadm's convention.
const (
	etcdClientPort = "2379"
	etcdPeerPort   = "2380"
	etcdCA         = kubernetesFolder + "/pki/etcd/ca.crt"
	etcdCAKey      = kubernetesFolder + "/pki/etcd/ca.key"
)

// dialTime is how long a control plane may take to accept a connection: one that is
// switched off says nothing.
const dialTime = 5 * time.Second

// Etcd is the cluster's store, by the JSON form of its API (etcd's documentation, "gRPC
// gateway"), with a certificate that is made of the authority's key for each use.
type Etcd struct {
	// Root is what paths are below: "/", but for tests.
	Root string
	// Node is this node's name, and Address where the others reach it.
	Node    string
	Address func() (netip.Addr, error)
	// Others are the addresses of control planes, HOST or HOST:PORT.
	Others []string

	peerPort string // for tests, where several share a host
}

// member is one of etcd's, as its API has it: 64-bit numbers are text.
type member struct {
	ID        string   `json:"ID"`
	Name      string   `json:"name"`
	PeerURLs  []string `json:"peerURLs"`
	IsLearner bool     `json:"isLearner"`
}

// Announce implements steps.Etcd.
func (e *Etcd) Announce(ctx context.Context) (string, error) {
	own, err := e.peerURL()
	if err != nil {
		return "", err
	}
	members, err := e.list(ctx)
	if err != nil {
		return "", err
	}
	// A member that was this node's, and whose data is gone, never comes back. One that has
	// not started yet is what an earlier attempt has left.
	i := slices.IndexFunc(members, func(m member) bool { return slices.Contains(m.PeerURLs, own) || m.Name == e.Node })
	if i >= 0 && members[i].Name != "" {
		if err := e.remove(ctx, members[i]); err != nil {
			return "", fmt.Errorf("remove what this node was before: %w", err)
		}
		i = -1
	}
	if i < 0 {
		if err := e.do(ctx, "member/add", map[string]any{"peerURLs": []string{own}, "isLearner": true}, nil); err != nil {
			return "", fmt.Errorf("announce this node: %w", err)
		}
		// Others may have come or gone meanwhile: from here on they wait.
		if members, err = e.list(ctx); err != nil {
			return "", err
		}
	}
	return e.initial(members, own)
}

// initial is what etcd is told of the members when it begins. Whose is unknown it cannot be
// told.
func (e *Etcd) initial(members []member, own string) (string, error) {
	var out []string
	for _, m := range members {
		name := m.Name
		switch {
		case slices.Contains(m.PeerURLs, own):
			name = e.Node
		case name == "":
			return "", fmt.Errorf("the member at %s has not started: wait for it", strings.Join(m.PeerURLs, ", "))
		}
		for _, u := range m.PeerURLs {
			out = append(out, name+"="+u)
		}
	}
	slices.Sort(out)
	return strings.Join(out, ","), nil
}

// Remove takes another node out of the members: by its name, or, if it never started, by
// its address. etcd refuses what would leave too few of those that run. That it is none
// (any more) is no error.
func (e *Etcd) Remove(ctx context.Context, node, address string) error {
	members, err := e.list(ctx)
	if err != nil {
		return err
	}
	for _, m := range members {
		unstarted := m.Name == "" && slices.ContainsFunc(m.PeerURLs, func(u string) bool { return hostOf(u) == address })
		if m.Name != node && !unstarted {
			continue
		}
		if err := e.remove(ctx, m); err != nil {
			return fmt.Errorf("remove %s: %w", node, err)
		}
	}
	return nil
}

func (e *Etcd) remove(ctx context.Context, m member) error {
	return e.do(ctx, "member/remove", map[string]any{"ID": m.ID}, nil)
}

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// Promote implements steps.Etcd.
func (e *Etcd) Promote(ctx context.Context) error {
	own, err := e.peerURL()
	if err != nil {
		return err
	}
	members, err := e.list(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(members, func(m member) bool { return slices.Contains(m.PeerURLs, own) })
	switch {
	case i < 0:
		return errors.New("this node is no member")
	case !members[i].IsLearner:
		return nil
	case members[i].Name == "":
		return errors.New("this node's member has not started")
	}
	return e.do(ctx, "member/promote", map[string]any{"ID": members[i].ID}, nil)
}

func (e *Etcd) peerURL() (string, error) {
	address, err := e.Address()
	if err != nil {
		return "", err
	}
	port := etcdPeerPort
	if e.peerPort != "" {
		port = e.peerPort
	}
	return "https://" + net.JoinHostPort(address.String(), port), nil
}

func (e *Etcd) list(ctx context.Context) ([]member, error) {
	var out struct{ Members []member }
	if err := e.do(ctx, "member/list", map[string]any{"linearizable": true}, &out); err != nil {
		return nil, fmt.Errorf("list the members: %w", err)
	}
	if len(out.Members) == 0 {
		return nil, errors.New("list the members: there is none")
	}
	return out.Members, nil
}

// do asks one control plane after the other.
func (e *Etcd) do(ctx context.Context, path string, request, response any) error {
	config, err := e.tls()
	if err != nil {
		return err
	}
	dialer := &net.Dialer{Timeout: dialTime}
	client := &http.Client{Timeout: requestTime, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true, DialContext: dialer.DialContext}}
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	var errs []error
	for _, other := range e.Others {
		if _, _, err := net.SplitHostPort(other); err != nil {
			other = net.JoinHostPort(other, etcdClientPort)
		}
		err := post(ctx, client, "https://"+other+"/v3/cluster/"+path, body, response)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func post(ctx context.Context, client *http.Client, url string, body []byte, response any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		var said struct{ Message string }
		_ = json.Unmarshal(data, &said)
		return fmt.Errorf("%s answers %d: %.200s", r.URL.Host, answer.StatusCode, said.Message)
	}
	if response == nil {
		return nil
	}
	return json.Unmarshal(data, response)
}

// tls is that of a client whom etcd's authority has certified, for a moment.
func (e *Etcd) tls() (*tls.Config, error) {
	authority, err := tls.LoadX509KeyPair(filepath.Join(e.Root, etcdCA), filepath.Join(e.Root, etcdCAKey))
	if err != nil {
		return nil, fmt.Errorf("etcd's authority: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	certificate, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)), Subject: pkix.Name{CommonName: "constellation-bootstrapper"},
		NotBefore: now.Add(-5 * time.Minute), NotAfter: now.Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, authority.Leaf, key.Public(), authority.PrivateKey)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(authority.Leaf)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots,
		Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}},
	}, nil
}
