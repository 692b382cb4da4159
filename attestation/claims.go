// SPDX-License-Identifier: Apache-2.0

package attestation

import (
	"encoding/json"
	"slices"

	"github.com/constellation-os/constellation/measurements"
)

// Claims is what a verifier found to be true of a machine.
type Claims struct {
	// Technology that it was proven by.
	Technology Technology `json:"technology"`
	// Image is the policy's name of the accepted measurements that matched.
	Image string `json:"image"`
	// PCRs are the values that a TPM signed; nil without a TPM.
	PCRs measurements.Banks `json:"pcrs,omitempty"`
	// Launch is the measurement by the CPU of what the virtual machine started
	// from; nil without such a CPU.
	Launch measurements.Digest `json:"launch,omitempty"`
	// Identities of the devices that vouched, never empty. In a composite the one
	// that vouches for the others comes first.
	Identities []Identity `json:"identities"`
	// Grant is what the policy's inventory says of an identity; nil if it is not
	// listed. A machine's own word about its name or role is not in the claims.
	Grant *Grant `json:"grant,omitempty"`
	// TCB are the security versions that the device's firmware reports.
	TCB []Version `json:"tcb,omitempty"`
	// Debug says whether the machine can be debugged from outside.
	Debug Debug `json:"debug"`
	// Boot are a TPM's counters; nil without a TPM.
	Boot *Boot `json:"boot,omitempty"`
	// Properties says what was proven and what was not.
	Properties Properties `json:"properties"`
	// Policy is the digest of the policy that accepted the machine, where the verifier
	// follows one that changes; nil elsewhere.
	Policy measurements.Digest `json:"policy,omitempty"`
	// Key is the key that signed the evidence, in the form that the technology
	// defines for KeyBinding; nil where a technology has none to bind.
	Key []byte `json:"-"`
}

// IdentityKind says what an identity is of.
type IdentityKind string

// Kinds of identities.
const (
	// EndorsementKey: SHA-256 of the DER SubjectPublicKeyInfo of a TPM's endorsement key.
	EndorsementKey IdentityKind = "endorsement-key-sha256"
	// ChipID: the unique identifier of a CPU.
	ChipID IdentityKind = "chip-id"
)

// Identity names a device.
type Identity struct {
	Kind  IdentityKind        `json:"kind"`
	Value measurements.Digest `json:"value"`
}

// Grant is what an administrator decided about an identity beforehand.
type Grant struct {
	Name string `json:"name"`
	Role string `json:"role"`
}

// Version is a security version number.
type Version struct {
	Component string `json:"component"`
	Number    uint64 `json:"number"`
}

// Boot are the counters of a TPM (TPM 2.0 Library Part 2, section 10.11.1).
type Boot struct {
	Clock    uint64 `json:"clock_ms"`
	Resets   uint32 `json:"resets"`
	Restarts uint32 `json:"restarts"`
	Safe     bool   `json:"safe"`
}

// Debug is a machine's debug state.
type Debug string

// Debug states. A technology that cannot tell says unknown.
const (
	DebugUnknown Debug = "unknown"
	DebugOff     Debug = "off"
	DebugOn      Debug = "on"
)

// Property is something about a machine that evidence can prove.
type Property string

// Properties, in the order in which they are shown.
const (
	// PropertyFresh: the evidence was made for this binding.
	PropertyFresh Property = "fresh"
	// PropertyBoot: what was booted is what the policy accepts.
	PropertyBoot Property = "measured-boot"
	// PropertyResident: the signing key cannot leave the identified device.
	PropertyResident Property = "key-resident"
	// PropertyEndorsed: the policy trusts who vouches for the device, or the device itself.
	PropertyEndorsed Property = "device-endorsed"
	// PropertyConfidential: the host cannot read or change the machine's memory.
	PropertyConfidential Property = "confidential"
)

// AllProperties lists the properties.
func AllProperties() []Property {
	return []Property{PropertyFresh, PropertyBoot, PropertyResident, PropertyEndorsed, PropertyConfidential}
}

// Properties is the set of proven ones.
type Properties []Property

// Proven says whether p was.
func (ps Properties) Proven(p Property) bool { return slices.Contains(ps, p) }

// Missing are those that were not proven.
func (ps Properties) Missing() []Property {
	return slices.DeleteFunc(AllProperties(), ps.Proven)
}

// MarshalJSON implements json.Marshaler: both sets, so that what is missing is seen.
func (ps Properties) MarshalJSON() ([]byte, error) {
	out := struct {
		Proven    []Property `json:"proven"`
		NotProven []Property `json:"not_proven"`
	}{slices.DeleteFunc(AllProperties(), func(p Property) bool { return !ps.Proven(p) }), ps.Missing()}
	return json.Marshal(out)
}
