// SPDX-License-Identifier: Apache-2.0

package joinservice

import (
	"bytes"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/measurements"
	api "github.com/constellation-os/constellation/services/api/joinservice"
)

// identityOf is by what a machine is known: its TPM's endorsement key, for several
// machines may share a CPU. Without one it is the device that vouches for the others.
func identityOf(c *attestation.Claims) (attestation.Identity, error) {
	for _, id := range c.Identities {
		if id.Kind == attestation.EndorsementKey {
			return id, nil
		}
	}
	if len(c.Identities) == 0 {
		return attestation.Identity{}, refuse(ReasonInternal, "the claims name no device")
	}
	return c.Identities[0], nil
}

// admit says what a device is called and is. The request, which the machine made up, can
// agree with the policy, and choose a name that is free where the policy lets it.
func admit(d *policy.Document, id attestation.Identity, name string, role api.Role) (attestation.Grant, error) {
	grant := attestation.Grant{Name: name, Role: policy.Worker}
	if listed := d.Granted(id); listed != nil {
		grant = *listed
	} else if !d.FirstComeWorkers {
		return grant, refuse(ReasonNotListed, "the policy's inventory does not list the device, and lets no unlisted workers in")
	} else if !policy.ValidName(name) {
		return grant, refuse(ReasonRequest, "the inventory gives the device no name, and the request's is not one: 1 to 63 of a-z, 0-9 and dashes")
	} else if d.Reserved(name) {
		return grant, refuse(ReasonName, "the inventory gives the name %s to another device", name)
	}
	if name != "" && name != grant.Name {
		return grant, refuse(ReasonName, "the device is granted the name %s, not %s", grant.Name, clip(name))
	}
	if role != api.Role_ROLE_UNSPECIFIED && role != roles[grant.Role] {
		return grant, refuse(ReasonRole, "the device is granted the role %s, not %s", grant.Role, roleName(role))
	}
	return grant, nil
}

var roles = map[string]api.Role{policy.Worker: api.Role_ROLE_WORKER, policy.ControlPlane: api.Role_ROLE_CONTROL_PLANE}

func roleName(role api.Role) string {
	for name, r := range roles {
		if r == role {
			return name
		}
	}
	return "none"
}

// checkCluster wants a machine that belongs to no cluster yet, or to this one.
func checkCluster(c *attestation.Claims, cluster keys.ClusterID) error {
	for alg, pcrs := range c.PCRs {
		zero := make(measurements.Digest, alg.Size())
		seen := pcrs[measurements.ClusterPCR]
		if !bytes.Equal(seen, zero) && !bytes.Equal(seen, alg.Extend(zero, measurements.ClusterDigests(cluster[:])[alg])) {
			return refuse(ReasonOtherCluster, "%s PCR %d says that the machine belongs to another cluster than %v", alg, measurements.ClusterPCR, cluster)
		}
	}
	return nil
}
