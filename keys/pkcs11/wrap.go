// SPDX-License-Identifier: Apache-2.0

//go:build cgo

package pkcs11

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/managed"
)

// A wrapped key is one byte of format version, the nonce and what CKM_AES_GCM
// (PKCS #11 2.40, section 2.12.3 of the mechanisms) makes of the key. Keys are
// wrapped so rarely that random nonces do not meet.
const (
	wrapFormat = 1
	nonceSize  = 12
	tagSize    = 16
	maxKey     = 96
)

// Wrap implements [managed.KMS].
func (h *HSM) Wrap(ctx context.Context, key, binding []byte) (wrapped []byte, err error) {
	if len(key) == 0 || len(key) > maxKey {
		return nil, keys.Errorf(keys.ClassInvalid, "a key of %d bytes, want 1 to %d", len(key), maxKey)
	}
	err = h.with(ctx, func(session p11.SessionHandle, l *link) error {
		nonce := make([]byte, nonceSize)
		rand.Read(nonce) // never fails
		params := p11.NewGCMParams(nonce, binding, tagSize*8)
		defer params.Free()
		if err := h.module.EncryptInit(session, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_GCM, params)}, l.key); err != nil {
			return classify("encrypt", err)
		}
		sealed, err := h.module.Encrypt(session, key)
		if err != nil {
			return classify("encrypt", err)
		}
		// Some HSMs choose the nonce themselves.
		nonce = params.IV()
		if len(nonce) != nonceSize || len(sealed) != len(key)+tagSize {
			return keys.Errorf(keys.ClassCorrupted, "the HSM made a nonce of %d and a ciphertext of %d bytes", len(nonce), len(sealed))
		}
		wrapped = append(append([]byte{wrapFormat}, nonce...), sealed...)
		return nil
	})
	return wrapped, err
}

// Unwrap implements [managed.KMS].
func (h *HSM) Unwrap(ctx context.Context, wrapped, binding []byte) (key []byte, err error) {
	if len(wrapped) <= 1+nonceSize+tagSize || len(wrapped) > 1+nonceSize+maxKey+tagSize || wrapped[0] != wrapFormat {
		return nil, keys.Errorf(keys.ClassCorrupted, "%d bytes that are not a wrapped key", len(wrapped))
	}
	nonce, sealed := wrapped[1:1+nonceSize], wrapped[1+nonceSize:]
	err = h.with(ctx, func(session p11.SessionHandle, l *link) error {
		params := p11.NewGCMParams(nonce, binding, tagSize*8)
		defer params.Free()
		if err := h.module.DecryptInit(session, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_GCM, params)}, l.key); err != nil {
			return classify("decrypt", err)
		}
		key, err = h.module.Decrypt(session, sealed)
		if err != nil {
			return classifyDecrypt(err)
		}
		if len(key) != len(sealed)-tagSize {
			clear(key)
			return keys.Errorf(keys.ClassCorrupted, "the HSM decrypted %d bytes to %d", len(sealed), len(key))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return key, nil
}

// attributes of the key that say how well it is protected.
type attributes struct{ encrypt, decrypt, sensitive, extractable, local bool }

// Describe implements [managed.KMS].
func (h *HSM) Describe(ctx context.Context) (d *managed.Description, err error) {
	err = h.with(ctx, func(session p11.SessionHandle, l *link) error {
		a, size, err := h.read(session, l.key)
		if err != nil {
			return err
		}
		d = &managed.Description{
			KMS:       fmt.Sprintf("PKCS#11 token %q, %s %s", l.token.Label, l.token.ManufacturerID, l.token.Model),
			KeyID:     fmt.Sprintf("serial=%s;%s", l.token.SerialNumber, (&URI{Object: h.uri.Object, ID: h.uri.ID}).String()[len(Scheme)+1:]),
			Algorithm: fmt.Sprintf("AES-%d-GCM", size*8),
			Warnings:  a.warnings(size),
		}
		return nil
	})
	return d, err
}

func (a attributes) warnings(size uint64) (out []string) {
	for _, w := range []struct {
		applies bool
		text    string
	}{
		{!a.encrypt, "the key may not encrypt (CKA_ENCRYPT): new data keys cannot be wrapped"},
		{!a.decrypt, "the key may not decrypt (CKA_DECRYPT): data keys cannot be unwrapped"},
		{a.extractable, "the key can be taken out of the HSM (CKA_EXTRACTABLE)"},
		{!a.sensitive, "the key can be read from the HSM (CKA_SENSITIVE is not set)"},
		{!a.local, "the key was not made in the HSM (CKA_LOCAL): a copy may exist"},
		{size < 32, "the key is shorter than 256 bits"},
	} {
		if w.applies {
			out = append(out, w.text)
		}
	}
	return out
}

func (h *HSM) read(session p11.SessionHandle, key p11.ObjectHandle) (a attributes, size uint64, err error) {
	flags := []struct {
		kind uint
		to   *bool
	}{
		{p11.CKA_ENCRYPT, &a.encrypt}, {p11.CKA_DECRYPT, &a.decrypt}, {p11.CKA_SENSITIVE, &a.sensitive},
		{p11.CKA_EXTRACTABLE, &a.extractable}, {p11.CKA_LOCAL, &a.local},
	}
	template := []*p11.Attribute{p11.NewAttribute(p11.CKA_VALUE_LEN, nil)}
	for _, f := range flags {
		template = append(template, p11.NewAttribute(f.kind, nil))
	}
	values, err := h.module.GetAttributeValue(session, key, template)
	if err != nil {
		return a, 0, classify("read the key's attributes", err)
	}
	if len(values) != len(template) || len(values[0].Value) != 8 {
		return a, 0, keys.Errorf(keys.ClassCorrupted, "the HSM answered with %d attributes", len(values))
	}
	for i, f := range flags {
		value := values[i+1].Value
		*f.to = len(value) == 1 && value[0] != 0
	}
	return a, binary.NativeEndian.Uint64(values[0].Value), nil
}

// Health implements [managed.KMS]: the key is there, and may wrap and unwrap.
func (h *HSM) Health(ctx context.Context) error {
	return h.with(ctx, func(session p11.SessionHandle, l *link) error {
		a, _, err := h.read(session, l.key)
		if err == nil && !(a.encrypt && a.decrypt) {
			err = keys.Errorf(keys.ClassKeyDisabled, "the key needs CKA_ENCRYPT and CKA_DECRYPT")
		}
		return err
	})
}
