// SPDX-License-Identifier: Apache-2.0

package local

import (
	"fmt"

	"github.com/constellation-os/constellation/kubernetes/componentset"
)

// kubernetesVersion is that of a component set.
func kubernetesVersion(set []byte) (string, error) {
	s, err := componentset.Parse(set)
	if err != nil {
		return "", fmt.Errorf("the bundle's component set: %w", err)
	}
	return s.Kubernetes, nil
}
