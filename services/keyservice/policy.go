// SPDX-License-Identifier: Apache-2.0

package keyservice

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/constellation-os/constellation/keys"
)

// Identity is who asks: a Kubernetes service account, and the pod that uses it
// where the API server knows it.
type Identity struct {
	Namespace, Name string
	Pod             string
}

// String is NAMESPACE/NAME.
func (i *Identity) String() string { return i.Namespace + "/" + i.Name }

// Grant lets a service account ask for keys of some purposes.
type Grant struct {
	// ServiceAccount is NAMESPACE/NAME.
	ServiceAccount string   `json:"service_account"`
	Purposes       []string `json:"purposes"`
}

const maxGrants = 256

// Policy says who may ask for what. The zero value denies everything.
type Policy struct {
	grants map[string][]keys.Purpose
}

// NewPolicy checks grants. Errors have [keys.ClassInvalid].
func NewPolicy(grants []Grant) (*Policy, error) {
	if len(grants) == 0 || len(grants) > maxGrants {
		return nil, keys.Errorf(keys.ClassInvalid, "%d grants, want 1 to %d: without any, nobody gets a key", len(grants), maxGrants)
	}
	p := &Policy{map[string][]keys.Purpose{}}
	for i, g := range grants {
		namespace, name, _ := strings.Cut(g.ServiceAccount, "/")
		if len(validation.IsDNS1123Label(namespace)) != 0 || len(validation.IsDNS1123Subdomain(name)) != 0 {
			return nil, keys.Errorf(keys.ClassInvalid, "grant %d: service account %.80q is not NAMESPACE/NAME", i, g.ServiceAccount)
		}
		if _, twice := p.grants[g.ServiceAccount]; twice {
			return nil, keys.Errorf(keys.ClassInvalid, "grant %d: service account %s is there twice", i, g.ServiceAccount)
		}
		if len(g.Purposes) == 0 {
			return nil, keys.Errorf(keys.ClassInvalid, "grant %d: no purposes for %s", i, g.ServiceAccount)
		}
		for _, text := range g.Purposes {
			purpose, err := keys.ParsePurpose(text)
			if err != nil {
				return nil, keys.Errorf(keys.ClassInvalid, "grant %d: %w", i, err)
			}
			p.grants[g.ServiceAccount] = append(p.grants[g.ServiceAccount], purpose)
		}
	}
	return p, nil
}

// Allows says whether an identity may ask for keys of a purpose.
func (p *Policy) Allows(i *Identity, purpose keys.Purpose) bool {
	return slices.Contains(p.grants[i.String()], purpose)
}
