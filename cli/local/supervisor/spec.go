// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/constellation-os/constellation/cli/local/network"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/strictjson"
	"github.com/constellation-os/constellation/services/provider"
)

// SpecFormat names the format of a spec, and its version.
const SpecFormat = "constellation-local/v1"

// maxSpecSize is that of a spec in bytes.
const maxSpecSize = 1 << 20

// Spec is what a local cluster consists of. Paths are absolute.
type Spec struct {
	Format string `json:"format"`
	// Name of the cluster.
	Name string `json:"name"`
	// Disk is the image that every machine boots, Firmware what it boots with.
	Disk         string `json:"disk"`
	FirmwareCode string `json:"firmware_code"`
	FirmwareVars string `json:"firmware_vars"`
	// Bundle is the folder of Kubernetes' components; empty for none.
	Bundle string `json:"bundle,omitempty"`
	// Shape of every machine.
	Shape measurements.Machine `json:"shape"`
	// StateDiskGiB is the size of every machine's state disk. It takes no more space
	// than is used of it.
	StateDiskGiB int `json:"state_disk_gib"`
	// Machines by name.
	Machines []MachineSpec `json:"machines"`
	// APIPort is the port of this computer at which the API server is reached.
	APIPort uint16 `json:"api_port"`
	// Endpoint is HOST:PORT of the API servers, for the machines.
	Endpoint string `json:"endpoint"`
	// InitSecretHash is the SHA-256 of the init secret, in hexadecimal.
	InitSecretHash string `json:"init_secret_sha256"`
	// Cluster is what the machines are told of the cluster that they are to join; nil
	// until there is one.
	Cluster *ClusterSpec `json:"cluster,omitempty"`
}

// ClusterSpec is a cluster as machines that join need to know it.
type ClusterSpec struct {
	// ID is its identity, in hexadecimal.
	ID string `json:"id"`
	// Policy is the cluster's (package attestation/policy).
	Policy json.RawMessage `json:"policy"`
}

// EndpointName is the name of the API servers in network.Domain.
const EndpointName = "api"

// Ports of what runs on the machines and of what they find at their gateway.
const (
	APIServerPort = 6443
	metadataPort  = 80
	bundlePort    = 5000
)

// Endpoint is where machines reach the API servers.
func Endpoint() string { return fmt.Sprintf("%s.%s:%d", EndpointName, network.Domain, APIServerPort) }

// BundleSource is where machines find the bundle.
func BundleSource() string { return fmt.Sprintf("http://%s:%d", network.Gateway, bundlePort) }

// ParseSpec reads a spec strictly.
func ParseSpec(data []byte) (*Spec, error) {
	var s Spec
	if err := strictjson.Decode(data, &s); err != nil {
		return nil, fmt.Errorf("local cluster: %w", err)
	}
	if s.Format != SpecFormat {
		return nil, fmt.Errorf("local cluster: format %.80q, this program reads %q", s.Format, SpecFormat)
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("local cluster: %w", err)
	}
	return &s, nil
}

func (s *Spec) check() error {
	if len(s.Machines) == 0 {
		return errors.New("it has no machine")
	}
	if s.StateDiskGiB < 1 || s.StateDiskGiB > 16<<10 {
		return fmt.Errorf("state disks of %d GiB, want 1 to %d", s.StateDiskGiB, 16<<10)
	}
	if len(s.controlPlanes()) == 0 {
		return errors.New("it has no control plane")
	}
	var peers []provider.Peer
	for _, m := range s.Machines {
		peers = append(peers, provider.Peer{Name: m.Name, Role: m.Role, Address: m.Address})
	}
	_, hashErr := provider.ParseHash(s.InitSecretHash)
	_, clusterErr := s.cluster()
	return errors.Join(provider.CheckName(s.Name), provider.CheckPeers(peers), provider.CheckEndpoint(s.Endpoint), hashErr, clusterErr, s.Shape.Check())
}

// cluster is the cluster as machines are told of it, nil for none.
func (s *Spec) cluster() (*provider.Cluster, error) {
	if s.Cluster == nil {
		return nil, nil
	}
	return provider.ParseCluster(s.Cluster.ID, s.Cluster.Policy)
}

// Marshal makes the document.
func (s *Spec) Marshal() ([]byte, error) {
	s.Format = SpecFormat
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("local cluster: %w", err)
	}
	return json.MarshalIndent(s, "", "  ")
}
