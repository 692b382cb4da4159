// SPDX-License-Identifier: Apache-2.0

// Package qemu is the provider of machines of a local cluster: the program that runs
// them serves a document with their metadata by HTTP, at the gateway of their network.
// It tells machines apart by their addresses.
//
// The document comes unprotected over a network that is not trusted, as metadata of
// every cloud does. See package provider for what that means.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/constellation-os/constellation/services/provider"
)

// Bounds of a request.
const (
	dialTimeout    = 5 * time.Second
	requestTimeout = 10 * time.Second
	maxHeader      = 16 << 10 // bytes
)

// Provider implements provider.Provider.
type Provider struct {
	gateway func() (netip.Addr, error)
	port    uint16
	client  *http.Client
}

var _ provider.Provider = (*Provider)(nil)

// New makes the provider of this machine.
func New() *Provider { return newProvider(defaultGateway, 80) }

func newProvider(gateway func() (netip.Addr, error), port uint16) *Provider {
	return &Provider{gateway: gateway, port: port, client: &http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{
			// No proxy, and no connection that outlives its answer.
			DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("it redirects") },
	}}
}

// Self implements provider.Provider.
func (p *Provider) Self(ctx context.Context) (provider.Self, error) {
	d, err := p.Get(ctx)
	if err != nil {
		return provider.Self{}, err
	}
	return d.Self, nil
}

// Peers implements provider.Provider.
func (p *Provider) Peers(ctx context.Context) ([]provider.Peer, error) {
	d, err := p.Get(ctx)
	if err != nil {
		return nil, err
	}
	return d.Peers, nil
}

// Endpoint implements provider.Provider.
func (p *Provider) Endpoint(ctx context.Context) (string, error) {
	d, err := p.Get(ctx)
	if err != nil {
		return "", err
	}
	return d.Endpoint, nil
}

// Cluster implements provider.Provider.
func (p *Provider) Cluster(ctx context.Context) (*provider.Cluster, error) {
	d, err := p.Get(ctx)
	if err != nil {
		return nil, err
	}
	return d.Cluster, nil
}

// Get asks for the whole document.
func (p *Provider) Get(ctx context.Context) (*Document, error) {
	gateway, err := p.gateway()
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	url := "http://" + netip.AddrPortFrom(gateway, p.port).String() + Path
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	response, err := p.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metadata: %s answers with status %d", url, response.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	return Parse(data)
}
