// SPDX-License-Identifier: Apache-2.0

// Package client asks KeyService for data keys. A [Client] is a [keys.Source], so
// that whoever uses keys need not know where they come from.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/keyservice"
)

const maxFile = 64 << 10

// How long a connection may be silent before the service is asked whether it is there, and
// how long it may take to acknowledge that, or a request.
const (
	pingAfter = 20 * time.Second
	silence   = 10 * time.Second
)

// Config of a client.
type Config struct {
	// Target is the service's address, ServerName what its certificate must name.
	Target, ServerName string
	// CAFile is the cluster's authority in PEM.
	CAFile string
	// TokenFile holds a projected token for KeyService's audience. It is read for
	// each request, for the kubelet renews it.
	TokenFile string
}

// Client is a [keys.Source].
type Client struct {
	conn *grpc.ClientConn
	api  api.KeyServiceClient
}

// New makes a client. It connects when it is first used.
func New(c Config) (*Client, error) {
	pem, err := readFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("authority: %s holds no certificate", c.CAFile)
	}
	conn, err := grpc.NewClient(c.Target,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: c.ServerName})),
		grpc.WithPerRPCCredentials(tokenFile(c.TokenFile)),
		// A machine that is switched off says nothing: who does not acknowledge for so long is
		// given up, and another instance is asked.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: silence}))
	if err != nil {
		return nil, err
	}
	return &Client{conn, api.NewKeyServiceClient(conn)}, nil
}

// DataKey implements [keys.Source]. A refusal's class is the reason of the
// service, which docs/keys.md lists; without one it is [keys.ClassUnreachable].
func (c *Client) DataKey(ctx context.Context, purpose keys.Purpose, id string, length int, version keys.Version) (*keys.DataKey, error) {
	if err := keys.Check(purpose, id, length); err != nil {
		return nil, err
	}
	resp, err := c.api.GetDataKey(ctx, &api.GetDataKeyRequest{
		Purpose: string(purpose), Id: id, Length: uint32(length), Version: uint32(version),
	})
	if err != nil {
		return nil, &keys.Error{Class: classOf(err), Err: err}
	}
	if len(resp.Key) != length || resp.Version == 0 || version != 0 && resp.Version != uint32(version) {
		clear(resp.Key)
		return nil, keys.Errorf(keys.ClassCorrupted, "KeyService answered with %d bytes of version %d", len(resp.Key), resp.Version)
	}
	return &keys.DataKey{Purpose: purpose, ID: id, Version: keys.Version(resp.Version), Secret: keys.NewSecret(resp.Key)}, nil
}

func classOf(err error) keys.Class {
	for _, detail := range status.Convert(err).Details() {
		if r, ok := detail.(*api.Refusal); ok && r.Reason != "" {
			return keys.Class(r.Reason)
		}
	}
	return keys.ClassUnreachable
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

type tokenFile string

func (t tokenFile) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := readFile(string(t))
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	return map[string]string{"authorization": "Bearer " + string(bytes.TrimSpace(token))}, nil
}

func (tokenFile) RequireTransportSecurity() bool { return true }

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s: more than %d bytes", path, maxFile)
	}
	return data, err
}
