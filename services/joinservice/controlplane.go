// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/constellation-os/constellation/keys"
	api "github.com/constellation-os/constellation/services/api/joinservice"
)

// controlPlaneFiles are what the nodes of a control plane share, below
// /etc/kubernetes/pki (kubeadm, "Manual certificate distribution").
var controlPlaneFiles = []string{
	"ca.crt", "ca.key", "sa.key", "sa.pub", "front-proxy-ca.crt", "front-proxy-ca.key", "etcd/ca.crt", "etcd/ca.key",
}

const maxFileSize = 64 << 10

// Secrets of the control plane are read from files for each ticket, so that this process
// does not keep them.
type Secrets struct {
	// PKI is the folder of controlPlaneFiles.
	PKI string
	// MasterSecret is a file; empty where the user's KMS holds the key.
	MasterSecret string
}

func (s *Secrets) read() (*api.ControlPlane, error) {
	out := &api.ControlPlane{}
	for _, path := range controlPlaneFiles {
		content, err := readFile(filepath.Join(s.PKI, filepath.FromSlash(path)))
		if err != nil {
			wipeControlPlane(out)
			return nil, fmt.Errorf("files of the control plane: %w", err)
		}
		out.Files = append(out.Files, &api.File{Path: path, Content: content})
	}
	if s.MasterSecret == "" {
		return out, nil
	}
	ring, err := keys.Load(s.MasterSecret)
	if err == nil {
		out.MasterSecret, err = ring.Marshal()
		ring.Wipe()
	}
	if err != nil {
		wipeControlPlane(out)
		return nil, err
	}
	return out, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err == nil && (len(data) == 0 || len(data) > maxFileSize) {
		err = fmt.Errorf("%s: %d bytes, want 1 to %d", path, len(data), maxFileSize)
	}
	return data, err
}

// wipe overwrites the secrets of a message that was encoded.
func wipe(message any) {
	switch m := message.(type) {
	case *api.IssueJoinTicketResponse:
		wipeTicket(m.Ticket)
		wipeControlPlane(m.ControlPlane)
	case *api.IssueRejoinTicketResponse:
		wipeTicket(m.Ticket)
		wipeControlPlane(m.ControlPlane)
	}
}

func wipeTicket(t *api.Ticket) {
	clear(t.GetStateDiskKey())
	clear(t.GetMeasurementSecret())
}

func wipeControlPlane(c *api.ControlPlane) {
	for _, f := range c.GetFiles() {
		clear(f.Content)
	}
	clear(c.GetMasterSecret())
}
