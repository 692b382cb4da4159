// SPDX-License-Identifier: Apache-2.0

//go:build cgo

package softhsmtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	p11 "github.com/miekg/pkcs11"
)

// Module is where Debian has it.
const Module = "/usr/lib/softhsm/libsofthsm2.so"

// PIN of every token.
const PIN = "softhsm-test-pin"

// HSM is a place for tokens.
type HSM struct {
	// Tokens is the folder that holds them.
	Tokens string
	// PINFile holds the PIN.
	PINFile string
}

// New makes the process's SoftHSM2 an empty one until the test ends. The module
// must not be loaded already: one test at a time.
func New(t testing.TB) *HSM {
	t.Helper()
	dir := t.TempDir()
	h := &HSM{Tokens: filepath.Join(dir, "tokens"), PINFile: filepath.Join(dir, "pin")}
	config := filepath.Join(dir, "softhsm2.conf")
	if err := os.Mkdir(h.Tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		config:    fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", h.Tokens),
		h.PINFile: PIN + "\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SOFTHSM2_CONF", config)
	return h
}

// Token makes a token.
func (h *HSM) Token(t testing.TB, label string) {
	t.Helper()
	cmd := exec.Command("softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "softhsm-test-so", "--pin", PIN)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("softhsm2-util: %v\n%s", err, out)
	}
}

// Key makes an AES-256 key; the attributes are added to the usual ones or replace them.
func (h *HSM) Key(t testing.TB, token, label string, id byte, attributes ...*p11.Attribute) {
	t.Helper()
	template := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_LABEL, label), p11.NewAttribute(p11.CKA_ID, []byte{id}),
		p11.NewAttribute(p11.CKA_VALUE_LEN, 32), p11.NewAttribute(p11.CKA_ENCRYPT, true), p11.NewAttribute(p11.CKA_DECRYPT, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, true), p11.NewAttribute(p11.CKA_EXTRACTABLE, false), p11.NewAttribute(p11.CKA_PRIVATE, true),
	}
	for _, a := range attributes {
		i := slices.IndexFunc(template, func(b *p11.Attribute) bool { return a.Type == b.Type })
		if i < 0 {
			t.Fatalf("attribute %#x is not one of the usual ones", a.Type)
		}
		template[i] = a
	}
	h.session(t, token, func(c *p11.Ctx, session p11.SessionHandle) error {
		_, err := c.GenerateKey(session, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_KEY_GEN, nil)}, template)
		return err
	})
}

// Destroy deletes all keys of a token with a label.
func (h *HSM) Destroy(t testing.TB, token, label string) {
	t.Helper()
	h.session(t, token, func(c *p11.Ctx, session p11.SessionHandle) error {
		if err := c.FindObjectsInit(session, []*p11.Attribute{p11.NewAttribute(p11.CKA_LABEL, label)}); err != nil {
			return err
		}
		found, _, err := c.FindObjects(session, 10)
		if err != nil {
			return err
		}
		if err := c.FindObjectsFinal(session); err != nil {
			return err
		}
		for _, object := range found {
			if err := c.DestroyObject(session, object); err != nil {
				return err
			}
		}
		return nil
	})
}

// URI names a key of a token.
func (h *HSM) URI(token, label string) string {
	return fmt.Sprintf("pkcs11:token=%s;object=%s?module-path=%s&pin-source=file:%s", token, label, Module, h.PINFile)
}

// session runs f logged in. The module may be in use by this process already.
func (h *HSM) session(t testing.TB, token string, f func(*p11.Ctx, p11.SessionHandle) error) {
	t.Helper()
	c := p11.New(Module)
	if c == nil {
		t.Fatalf("cannot load %s", Module)
	}
	defer c.Destroy()
	if err := c.Initialize(); err == nil {
		defer c.Finalize()
	} else if err != p11.Error(p11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		t.Fatal(err)
	}
	slots, err := c.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		if info, err := c.GetTokenInfo(slot); err != nil || info.Label != token {
			continue
		}
		session, err := c.OpenSession(slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseSession(session)
		if err := c.Login(session, p11.CKU_USER, PIN); err != nil && err != p11.Error(p11.CKR_USER_ALREADY_LOGGED_IN) {
			t.Fatal(err)
		}
		if err := f(c, session); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("no token %q", token)
}
