// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"slices"
	"strings"
)

// Purpose is what a data key is for. Keys for different purposes are unrelated.
type Purpose string

// The purposes. Their texts are part of the derivation and never change.
const (
	// PurposeStateDisk: the encrypted disk of one node; the id is the disk's UUID.
	PurposeStateDisk Purpose = "state-disk"
	// PurposePersistentVolume: one volume of a workload; the id is the volume's handle.
	PurposePersistentVolume Purpose = "persistent-volume"
	// PurposeMeasurement: the measurement secret; the only id is [MeasurementID].
	PurposeMeasurement Purpose = "measurement"
	// PurposeRecovery: what proves a right to recover the cluster.
	PurposeRecovery Purpose = "recovery"
	// PurposeSSHCA: the authority that signs keys for emergency access.
	PurposeSSHCA Purpose = "ssh-ca"
	// PurposeSecretsEncryption: Kubernetes Secrets at rest.
	PurposeSecretsEncryption Purpose = "secrets-encryption"
)

var purposes = []Purpose{
	PurposeStateDisk, PurposePersistentVolume, PurposeMeasurement,
	PurposeRecovery, PurposeSSHCA, PurposeSecretsEncryption,
}

// Purposes lists all of them.
func Purposes() []Purpose { return slices.Clone(purposes) }

// ParsePurpose accepts the text of a purpose and nothing else. Its errors have
// [ClassInvalid].
func ParsePurpose(s string) (Purpose, error) {
	if p := Purpose(s); slices.Contains(purposes, p) {
		return p, nil
	}
	return "", Errorf(ClassInvalid, "purpose %.40q is not one of %s", s, purposeNames())
}

func purposeNames() string {
	names := make([]string, len(purposes))
	for i, p := range purposes {
		names[i] = string(p)
	}
	return strings.Join(names, ", ")
}

// One type for each purpose: they tell keys apart at compile time and have no values of interest.
type (
	StateDisk         struct{}
	PersistentVolume  struct{}
	Measurement       struct{}
	Recovery          struct{}
	SSHCA             struct{}
	SecretsEncryption struct{}
)

// Kind is the set of those types.
type Kind interface {
	StateDisk | PersistentVolume | Measurement | Recovery | SSHCA | SecretsEncryption
	Purpose() Purpose
}

// Purpose is the type's purpose.
func (StateDisk) Purpose() Purpose { return PurposeStateDisk }

// Purpose is the type's purpose.
func (PersistentVolume) Purpose() Purpose { return PurposePersistentVolume }

// Purpose is the type's purpose.
func (Measurement) Purpose() Purpose { return PurposeMeasurement }

// Purpose is the type's purpose.
func (Recovery) Purpose() Purpose { return PurposeRecovery }

// Purpose is the type's purpose.
func (SSHCA) Purpose() Purpose { return PurposeSSHCA }

// Purpose is the type's purpose.
func (SecretsEncryption) Purpose() Purpose { return PurposeSecretsEncryption }
