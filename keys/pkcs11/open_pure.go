// SPDX-License-Identifier: Apache-2.0

//go:build !cgo

package pkcs11

import (
	"context"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/managed"
)

// Open fails: a program without cgo cannot load an HSM's library.
func Open(_ context.Context, uri string) (managed.KMS, error) {
	if _, err := ParseURI(uri); err != nil {
		return nil, err
	}
	return nil, keys.Errorf(keys.ClassInvalid, "this program was built without cgo and cannot load an HSM's library: "+
		"use one that was built with it (go build with a C compiler, or //cli/constellation:constellation-pkcs11)")
}
