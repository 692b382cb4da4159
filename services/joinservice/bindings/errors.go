// SPDX-License-Identifier: Apache-2.0

package bindings

import (
	"errors"
	"fmt"
)

// Reason says why a machine does not get what it asks for.
type Reason string

// Reasons. Besides these, a disk that is an older copy is a [disk.RollbackError].
const (
	// ReasonName: the node of this device has another name.
	ReasonName Reason = "name"
	// ReasonRole: the node of this device has another role.
	ReasonRole Reason = "role"
	// ReasonNameTaken: another device has the name.
	ReasonNameTaken Reason = "name-taken"
	// ReasonDiskTaken: another device has the disk.
	ReasonDiskTaken Reason = "disk-taken"
	// ReasonDisk: the node of this device has another disk, which was opened.
	ReasonDisk Reason = "disk"
	// ReasonUnknown: this device is no node.
	ReasonUnknown Reason = "unknown-node"
	// ReasonTicket: the ticket is not the node's last one, has expired, or was used.
	ReasonTicket Reason = "ticket"
)

// Refusal is an error with its reason. Every other error says that the objects could
// not be read or written.
type Refusal struct {
	Reason Reason
	Err    error
}

// Error implements error.
func (r *Refusal) Error() string { return fmt.Sprintf("%s: %v", r.Reason, r.Err) }

// Unwrap returns what happened.
func (r *Refusal) Unwrap() error { return r.Err }

func refuse(reason Reason, format string, args ...any) error {
	return &Refusal{reason, fmt.Errorf(format, args...)}
}

// Errors of [Objects].
var (
	ErrNotFound = errors.New("there is no such object")
	ErrExists   = errors.New("there is such an object")
	ErrConflict = errors.New("the object has changed")
)
