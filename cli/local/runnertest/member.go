// SPDX-License-Identifier: Apache-2.0

package runnertest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/constellation-os/constellation/cli/cluster/nodetest"
	"github.com/constellation-os/constellation/cli/local/supervisor"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/services/provider"
	"github.com/constellation-os/constellation/services/provider/qemu"
)

// joinPort is where control planes let others in.
const joinPort = 9444

// member is what a machine does as part of a cluster.
type member struct {
	machine     *fake
	node        *nodetest.Node
	runner      *Runner
	self        provider.Self
	address     string
	disk        string // file; it has the cluster's identity once the machine is a node
	credentials *nodetest.Credentials
}

// begin makes the machine a node: its disk remembers that.
func (m *member) begin(id keys.ClusterID) {
	if err := os.WriteFile(m.disk, id[:], 0o600); err != nil {
		panic(err)
	}
	if _, requests := m.node.Calls(); len(requests) > 0 {
		m.runner.server.setPolicy(requests[0].Policy)
	}
	m.runner.server.setNode(m.self.Name, m.self.Role, true)
	context.AfterFunc(m.machine.ctx, func() { m.runner.server.setNode(m.self.Name, m.self.Role, false) })
	if m.self.Role != provider.ControlPlane {
		return
	}
	if err := m.serve(id); err != nil {
		fmt.Fprintf(m.machine.console, "%s: %v\r\n", m.self.Name, err)
	}
}

// serve runs what control planes run.
func (m *member) serve(id keys.ClusterID) error {
	joins, err := m.machine.guest.Listen(m.address, joinPort)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := joins.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write(id[:])
			conn.Close()
		}
	}()
	certificate, err := tls.X509KeyPair(m.credentials.Certificate, m.credentials.Key)
	if err != nil {
		return err
	}
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM(m.credentials.Authority)
	l, err := m.machine.guest.Listen(m.address, supervisor.APIServerPort)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: &m.runner.server, TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authorities,
	}}
	go server.ServeTLS(l, "", "")
	context.AfterFunc(m.machine.ctx, func() { server.Close() })
	return nil
}

// seek asks the control planes to be let in until one does.
func (m *member) seek(d *qemu.Document) {
	for m.machine.ctx.Err() == nil {
		for _, p := range d.Peers {
			if p.Role == provider.ControlPlane && m.ask(p.Address.String()) == d.Cluster.ID && m.runner.server.grants(m.self) {
				m.node.Join(d.Cluster.ID)
				return
			}
		}
		select {
		case <-m.machine.ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ask is the identity of the cluster that a control plane lets the machine into.
func (m *member) ask(address string) (id keys.ClusterID) {
	ctx, cancel := context.WithTimeout(m.machine.ctx, time.Second)
	defer cancel()
	conn, err := m.machine.guest.Dial(ctx, address, joinPort)
	if err != nil {
		return id
	}
	defer conn.Close()
	_, _ = io.ReadFull(conn, id[:]) // zero if it did not
	return id
}

// keptCredentials are those in a machine's folder, which are made if need be.
func keptCredentials(folder string) (*nodetest.Credentials, error) {
	path := filepath.Join(folder, "credentials.json")
	if data, err := os.ReadFile(path); err == nil {
		var c nodetest.Credentials
		return &c, json.Unmarshal(data, &c)
	}
	c := nodetest.CredentialsOf("local")
	data, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return c, os.WriteFile(path, data, 0o600)
}
