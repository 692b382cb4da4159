// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"errors"
	"fmt"
)

// Class says what kind of failure an error is: what a caller may act on. The set
// is closed; their names are stable for programs.
type Class string

// Classes of what the caller asked for.
const (
	// ClassInvalid: a purpose, id, length or setting that cannot be.
	ClassInvalid Class = "invalid"
	// ClassVersion: a version of the master secret or key encryption key that is retired or was never made.
	ClassVersion Class = "version"
	// ClassMissing: a data key that was never made, asked for by its version.
	ClassMissing Class = "missing"
)

// Classes of files and stored keys.
const (
	// ClassPermissions: a file of secrets that others could read or write.
	ClassPermissions Class = "permissions"
	// ClassMalformed: a file of secrets that is not in its format.
	ClassMalformed Class = "malformed"
	// ClassCorrupted: a stored key, or a backend's answer, that is not what it must be.
	ClassCorrupted Class = "corrupted"
	// ClassExists: something is there already and is not overwritten.
	ClassExists Class = "exists"
)

// Classes of an external KMS or store.
const (
	// ClassUnreachable: it could not be reached, or broke off. Trying again may help.
	ClassUnreachable Class = "unreachable"
	// ClassTimeout: it did not answer in time. Trying again may help.
	ClassTimeout Class = "timeout"
	// ClassThrottled: it, or we on its behalf, refuse for now. Trying again later may help.
	ClassThrottled Class = "throttled"
	// ClassNotPermitted: it refuses our credentials, or what they may do.
	ClassNotPermitted Class = "not-permitted"
	// ClassKeyMissing: the key encryption key is not there.
	ClassKeyMissing Class = "key-missing"
	// ClassKeyDisabled: the key encryption key is there and may not be used.
	ClassKeyDisabled Class = "key-disabled"
	// ClassWrongKey: wrapped by another key, or for another purpose or id.
	ClassWrongKey Class = "wrong-key"
	// ClassInternal: everything else.
	ClassInternal Class = "internal"
)

// Error is a failure with its class.
type Error struct {
	Class Class
	// Err says what happened, for people. It never holds a secret.
	Err error
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Class, e.Err) }

// Unwrap returns what happened.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an *Error; format and args are those of fmt.Errorf.
func Errorf(class Class, format string, args ...any) error {
	return &Error{Class: class, Err: fmt.Errorf(format, args...)}
}

// ClassOf is the outermost class in err's chain, ClassInternal if it has none
// and "" for nil.
func ClassOf(err error) Class {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return ClassInternal
}
