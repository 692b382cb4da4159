// SPDX-License-Identifier: Apache-2.0

// Package runnertest runs machines that are none: each is a goroutine with a place on
// the cluster's network, a console that repeats what is typed, and a node (package
// nodetest) that asks for its metadata as a real one does. Machines that are told of a
// cluster ask its control planes to be let in; these run an API server that knows as much
// of nodes as commands need.
package runnertest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/cli/cluster/nodetest"
	"github.com/constellation-os/constellation/cli/local/machine"
	"github.com/constellation-os/constellation/cli/local/network"
	"github.com/constellation-os/constellation/cli/local/network/networktest"
	"github.com/constellation-os/constellation/cli/local/supervisor"
	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper"
	"github.com/constellation-os/constellation/services/provider"
	"github.com/constellation-os/constellation/services/provider/qemu"
)

// Runner implements supervisor.Runner.
type Runner struct {
	// Device makes the evidence of every node; DeviceOf, if set, that of each.
	Device   attestation.Issuer
	DeviceOf func(name string) attestation.Issuer
	// OnBoot, if set, is called at each boot of each machine, and may delay or fail it.
	OnBoot func(ctx context.Context, name string) error
	// OnStep is that of the node.
	OnStep func(call int, step api.Step) error

	server apiServer
}

// Boot implements supervisor.Runner.
func (r *Runner) Boot(ctx context.Context, c machine.Config, progress func(string)) (supervisor.Machine, error) {
	progress("firmware")
	fmt.Fprintf(c.Console, "%s boots\r\n", c.Name)
	if r.OnBoot != nil {
		if err := r.OnBoot(ctx, c.Name); err != nil {
			return nil, err
		}
	}
	if err := certify(c.TPM.AuthorityDir); err != nil {
		return nil, err
	}
	progress("operating system")
	m := &fake{name: c.Name, console: c.Console, ended: make(chan struct{}), typed: make(chan []byte)}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	if c.Network != nil {
		if err := m.join(c, r); err != nil {
			m.end("")
			return nil, err
		}
	}
	go m.repeat()
	fmt.Fprintf(c.Console, "%s is up\r\n", c.Name)
	return m, nil
}

// certify makes an authority's certificate appear, as the first machine's TPM does.
func certify(folder string) error {
	path := filepath.Join(folder, "issuercert.pem")
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", nodetest.Certificate(), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path) // whoever looks sees all of it
}

// fake is a machine.
type fake struct {
	name    string
	console io.Writer
	typed   chan []byte
	ctx     context.Context
	cancel  context.CancelFunc

	once  sync.Once
	exit  machine.Exit
	guest *networktest.Guest
	ended chan struct{}
}

// join plugs the machine in, asks for its metadata and starts its node.
func (m *fake) join(c machine.Config, r *Runner) error {
	address, ok := c.Network.(*network.Network).Address(c.MACAddress)
	if !ok {
		return errors.New("the network has no address for this machine")
	}
	var err error
	if m.guest, err = networktest.NewGuest(c.Network, c.MACAddress, address.String(), network.Gateway); err != nil {
		return err
	}
	d, err := m.metadata()
	if err != nil {
		return err
	}
	fmt.Fprintf(c.Console, "I am %s, %s of %s\r\n", d.Self.Name, d.Self.Role, d.Endpoint)
	node := &nodetest.Node{Steps: []api.Step{api.Step_STEP_LOCK, api.Step_STEP_DISK, api.Step_STEP_NODE}, OnStep: r.OnStep, Disk: api.Disk_DISK_FRESH}
	if h := d.Self.InitSecretHash; h != nil {
		node.InitSecretHash = *h
	}
	disk := filepath.Join(c.StateDir, "disk")
	if id, err := os.ReadFile(disk); err == nil {
		node.Disk, node.Of = api.Disk_DISK_NODE, keys.ClusterID(id)
	}
	member := &member{machine: m, node: node, runner: r, self: d.Self, address: address.String(), disk: disk}
	node.OnMember = member.begin
	if d.Self.Role == provider.ControlPlane {
		if member.credentials, err = keptCredentials(c.StateDir); err != nil {
			return err
		}
		node.Kubeconfig = member.credentials.Kubeconfig
	}
	if d.Cluster != nil {
		fmt.Fprintf(c.Console, "I am to join %x\r\n", d.Cluster.ID)
		node.State = api.State_STATE_JOINING
		go member.seek(d)
	}
	l, err := m.guest.Listen(address.String(), bootstrapper.Port)
	if err != nil {
		return err
	}
	device := r.Device
	if r.DeviceOf != nil {
		device = r.DeviceOf(m.name)
	}
	go node.Serve(m.ctx, l, device)
	return nil
}

func (m *fake) metadata() (*qemu.Document, error) {
	ctx, cancel := context.WithTimeout(m.ctx, 10*time.Second)
	defer cancel()
	conn, err := m.guest.Dial(ctx, network.Gateway, 80)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	request, err := http.NewRequest(http.MethodGet, "http://gateway"+qemu.Path, nil)
	if err != nil {
		return nil, err
	}
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metadata: %s, %w", response.Status, err)
	}
	return qemu.Parse(data)
}

// repeat prints what is typed. Some words end the machine, as its system could.
func (m *fake) repeat() {
	var line []byte
	for {
		select {
		case p := <-m.typed:
			line = append(line, p...)
			for {
				before, after, whole := bytes.Cut(line, []byte("\n"))
				if !whole {
					break
				}
				m.obey(string(before))
				line = after
			}
		case <-m.ended:
			return
		}
	}
}

func (m *fake) obey(line string) {
	fmt.Fprintf(m.console, "you typed %s\r\n", line)
	switch line {
	case "reboot":
		m.end("guest-reset")
	case "poweroff":
		m.end("guest-shutdown")
	case "panic":
		m.end("guest-panic")
	}
}

// Write takes what is typed.
func (m *fake) Write(p []byte) (int, error) {
	select {
	case m.typed <- bytes.Clone(p):
		return len(p), nil
	case <-m.ended:
		return 0, io.ErrClosedPipe
	}
}

func (m *fake) end(reason string) {
	m.once.Do(func() {
		m.exit.Reason = reason
		m.cancel()
		if m.guest != nil {
			m.guest.Close()
		}
		close(m.ended)
	})
}

// Stop implements supervisor.Machine.
func (m *fake) Stop() { m.end("host-qmp-quit") }

// Wait implements supervisor.Machine.
func (m *fake) Wait(ctx context.Context) (machine.Exit, error) {
	select {
	case <-m.ended:
		return m.exit, nil
	case <-ctx.Done():
		return machine.Exit{}, ctx.Err()
	}
}

// ConsoleInput implements supervisor.Machine.
func (m *fake) ConsoleInput() io.Writer { return m }
