// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/constellation-os/constellation/keys"
)

// Cluster is what nodes need to know of it, from a ConfigMap. None of it is secret.
type Cluster struct {
	// Endpoint of the API servers, HOST:PORT.
	Endpoint string
	// Salt of the key hierarchy.
	Salt []byte
	// Components is the component set, and Sources where they are fetched from.
	Components []byte
	Sources    []string
}

// Fields of the ConfigMap.
const (
	fieldEndpoint   = "endpoint"
	fieldSalt       = "salt" // hexadecimal
	fieldComponents = "components.json"
	fieldSources    = "sources" // one in a line
	fieldPolicy     = "policy.json"
)

// ParseCluster reads the ConfigMap's data.
func ParseCluster(data map[string]string) (*Cluster, error) {
	c := &Cluster{Endpoint: data[fieldEndpoint], Components: []byte(data[fieldComponents]), Sources: strings.Fields(data[fieldSources])}
	host, port, err := net.SplitHostPort(c.Endpoint)
	if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || host == "" || portErr != nil || n == 0 {
		return nil, fmt.Errorf("%s %.80q is not HOST:PORT", fieldEndpoint, c.Endpoint)
	}
	if c.Salt, err = hex.DecodeString(data[fieldSalt]); err != nil || len(c.Salt) != keys.SaltSize {
		return nil, fmt.Errorf("%s is not %d bytes in hexadecimal", fieldSalt, keys.SaltSize)
	}
	if !json.Valid(c.Components) {
		return nil, fmt.Errorf("%s is no component set", fieldComponents)
	}
	if len(c.Sources) == 0 {
		return nil, fmt.Errorf("%s names no place to fetch components from", fieldSources)
	}
	return c, nil
}
