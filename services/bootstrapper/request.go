// SPDX-License-Identifier: Apache-2.0

package bootstrapper

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"

	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/kubernetes/network"
	api "github.com/constellation-os/constellation/services/api/bootstrapper"
	"github.com/constellation-os/constellation/services/provider"
)

// Limits of an InitRequest.
const (
	initSecretSize  = 32
	maxComponentSet = 32 << 10
	maxPolicy       = provider.MaxPolicy // machines that join are told it by their surroundings
	maxSources      = 8
	maxSource       = 256
	maxNames        = 16
)

// Request is an InitRequest that was checked.
type Request struct {
	// Keyring is the cluster's master secret. Whoever gets a Request wipes it.
	Keyring *keys.Keyring
	Cluster keys.ClusterID
	// NodeName is a label of RFC 1123.
	NodeName     string
	ComponentSet []byte
	Sources      []string
	// Endpoint is HOST:PORT.
	Endpoint       string
	APIServerNames []string
	Network        network.Network
	ClusterName    string
	// Policy is the encoding of a policy.Document.
	Policy []byte
	// Schedulable lets everybody's pods run on the node.
	Schedulable bool
}

// newRequest checks a request. The init secret is not looked at; check has the last word.
// Errors name the field and what is wrong with it, and hold no secret.
func newRequest(r *api.InitRequest, check func(*Request) error) (*Request, error) {
	out := &Request{
		NodeName: r.GetNodeName(), ComponentSet: r.GetComponentSet(), Sources: r.GetSources(), Endpoint: r.GetEndpoint(),
		APIServerNames: r.GetApiServerNames(), ClusterName: r.GetClusterName(), Policy: r.GetPolicy(), Schedulable: r.GetSchedulable(),
	}
	for _, field := range []struct {
		name  string
		check func() error
	}{
		{"node_name", func() error { return checkLabel(out.NodeName) }},
		{"cluster_name", func() error { return checkLabel(out.ClusterName) }},
		{"component_set", func() error { return checkSize(out.ComponentSet) }},
		{"sources", func() error { return checkSources(out.Sources) }},
		{"endpoint", func() error { return network.CheckEndpoint(out.Endpoint) }},
		{"api_server_names", func() error { return checkNames(out.APIServerNames) }},
		{"policy", func() error { return checkPolicy(out.Policy) }},
		{"pod_network, service_network", func() (err error) {
			out.Network, err = network.Parse(r.GetPodNetwork(), r.GetServiceNetwork())
			return err
		}},
	} {
		if err := field.check(); err != nil {
			return nil, fmt.Errorf("%s: %w", field.name, err)
		}
	}
	if err := out.parseKeys(r); err != nil {
		return nil, err
	}
	if err := check(out); err != nil {
		out.Keyring.Wipe()
		return nil, err
	}
	return out, nil
}

func (r *Request) parseKeys(from *api.InitRequest) (err error) {
	r.Keyring, r.Cluster, err = parseKeys(from.GetMasterSecret())
	return err
}

func parseKeys(content []byte) (*keys.Keyring, keys.ClusterID, error) {
	var none keys.ClusterID
	if len(content) == 0 {
		return nil, none, fmt.Errorf("keys: there is no master secret")
	}
	ring, err := keys.Parse(content)
	if err != nil {
		return nil, none, fmt.Errorf("master_secret: %w", err)
	}
	cluster, err := ring.ClusterID()
	if err != nil {
		ring.Wipe()
		return nil, none, fmt.Errorf("master_secret: %w", err)
	}
	return ring, cluster, nil
}

// Fingerprint is a hash of what a cluster's first node cannot change once it was used.
// Sources may change, and so may versions of the master secret. The policy is the
// cluster's to change later, as is what runs on the node.
func (r *Request) Fingerprint() string {
	set := sha256.Sum256(r.ComponentSet)
	document, err := json.Marshal([]any{
		"constellation-init/v1", hex.EncodeToString(r.Cluster[:]), r.NodeName, hex.EncodeToString(set[:]), r.Endpoint,
		slices.Sorted(slices.Values(r.APIServerNames)), r.Network.Pods.String(), r.Network.Services.String(), r.ClusterName,
	})
	if err != nil {
		panic("bootstrapper: strings cannot be encoded: " + err.Error())
	}
	sum := sha256.Sum256(document)
	return hex.EncodeToString(sum[:])
}

var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func checkSize(set []byte) error {
	if len(set) == 0 || len(set) > maxComponentSet {
		return fmt.Errorf("%d bytes, want 1 to %d", len(set), maxComponentSet)
	}
	return nil
}

func checkPolicy(data []byte) error {
	if len(data) > maxPolicy {
		return fmt.Errorf("%d bytes, at most %d", len(data), maxPolicy)
	}
	_, err := policy.Parse(data)
	return err
}

func checkLabel(s string) error {
	if !label.MatchString(s) {
		return fmt.Errorf("%.80q is not 1 to 63 lower-case letters, digits and dashes", s)
	}
	return nil
}

func checkNames(names []string) error {
	if len(names) > maxNames {
		return fmt.Errorf("%d names, at most %d are accepted", len(names), maxNames)
	}
	for i, name := range names {
		if err := network.CheckHost(name); err != nil {
			return err
		}
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("%s is there twice", name)
		}
	}
	return nil
}

func checkSources(sources []string) error {
	if len(sources) == 0 || len(sources) > maxSources {
		return fmt.Errorf("%d sources, want 1 to %d", len(sources), maxSources)
	}
	for _, source := range sources {
		u, err := url.Parse(source)
		switch {
		case len(source) > maxSource || err != nil:
			return fmt.Errorf("%.80q is not a URL of at most %d bytes", source, maxSource)
		case u.Scheme != "http" && u.Scheme != "https":
			return fmt.Errorf("%.80q is not an http or https URL", source)
		case u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
			return fmt.Errorf("%.80q is not a base URL: it has no host, or credentials, a query or a fragment", source)
		}
	}
	return nil
}
