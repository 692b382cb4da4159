// SPDX-License-Identifier: Apache-2.0

//go:build e2e && cgo

package keys_test

import (
	"os"
	"testing"

	"github.com/miekg/pkcs11"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/constellation-os/constellation/keys/softhsmtest"
)

// The scripts in testdata/hsm have a real PKCS#11 module.
func TestHSMScripts(t *testing.T) {
	hsm := softhsmtest.New(t)
	hsm.Token(t, "prod")
	hsm.Key(t, "prod", "kek", 1)
	hsm.Key(t, "prod", "weak", 2, pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true))
	hsm.Key(t, "prod", "writer", 3, pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, false))
	wrong := hsm.PINFile + ".wrong"
	if err := os.WriteFile(wrong, []byte("not the PIN"), 0o600); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/hsm",
		Setup: func(env *testscript.Env) error {
			env.Setenv("SOFTHSM2_CONF", os.Getenv("SOFTHSM2_CONF"))
			env.Setenv("MODULE", softhsmtest.Module)
			env.Setenv("PIN", hsm.PINFile)
			env.Setenv("WRONG", wrong)
			return nil
		},
	})
}
