// SPDX-License-Identifier: Apache-2.0

//go:build cgo

package pkcs11

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/managed"
)

// maxSessions is how many calls the HSM sees at once; more wait their turn.
const maxSessions = 8

const maxPIN = 256

// HSM is a [managed.KMS]: one AES key in one token.
type HSM struct {
	uri    *URI
	module *module
	turns  chan struct{}

	mu     sync.Mutex
	link   *link
	closed bool
	// refused is why the PIN was not accepted. It is not tried again: a few wrong
	// PINs lock a token.
	refused error
}

// link is what becomes invalid together when the token goes away.
type link struct {
	generation int // of the module
	slot       uint
	token      *p11.TokenInfo
	key        p11.ObjectHandle
	idle       []p11.SessionHandle
}

// Open loads the HSM's library and finds the key.
func Open(_ context.Context, uri string) (managed.KMS, error) {
	u, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	m, err := openModule(u.ModulePath)
	if err != nil {
		return nil, err
	}
	return &HSM{uri: u, module: m, turns: make(chan struct{}, maxSessions)}, nil
}

// with calls f with a session that is logged in, and the key.
func (h *HSM) with(ctx context.Context, f func(p11.SessionHandle, *link) error) error {
	select {
	case h.turns <- struct{}{}:
		defer func() { <-h.turns }()
	case <-ctx.Done():
		return ctx.Err()
	}
	used, err := h.try(f)
	if used && stale(err) {
		// The link was an old one: what became of the token and the key is seen by looking again.
		_, err = h.try(f)
	}
	return err
}

// stale says whether an error may come from handles that are no longer valid.
func stale(err error) bool {
	class := keys.ClassOf(err)
	return class == keys.ClassKeyMissing || class == keys.ClassUnreachable
}

// try reports whether it used a link that was there before.
func (h *HSM) try(f func(p11.SessionHandle, *link) error) (used bool, err error) {
	generation := h.module.enter()
	l, session, used, err := h.acquire(generation)
	if err == nil {
		err = f(session, l)
		h.release(l, session, err)
	}
	h.module.leave()
	if keys.ClassOf(err) == keys.ClassUnreachable {
		h.module.reset(generation)
	}
	return used, err
}

func (h *HSM) acquire(generation int) (_ *link, _ p11.SessionHandle, used bool, _ error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return nil, 0, false, keys.Errorf(keys.ClassInternal, "the HSM was closed")
	case h.refused != nil:
		return nil, 0, false, fmt.Errorf("not tried again, so that the token does not lock: %w", h.refused)
	}
	if used = h.link != nil && h.link.generation == generation; !used {
		l, err := h.connect()
		if err != nil {
			return nil, 0, false, err
		}
		l.generation = generation
		h.link = l
	}
	l := h.link
	if n := len(l.idle); n > 0 {
		session := l.idle[n-1]
		l.idle = l.idle[:n-1]
		return l, session, used, nil
	}
	session, err := h.module.OpenSession(l.slot, p11.CKF_SERIAL_SESSION)
	if err != nil {
		err = classify("open a session", err)
		h.drop(l, err)
		return nil, 0, used, err
	}
	return l, session, used, nil
}

// release keeps the session, or lets go of everything if it may be broken.
func (h *HSM) release(l *link, session p11.SessionHandle, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch keys.ClassOf(err) {
	case "", keys.ClassWrongKey, keys.ClassCorrupted:
		if h.link == l {
			l.idle = append(l.idle, session)
			return
		}
	}
	h.module.CloseSession(session)
	h.drop(l, err)
}

// drop makes the next call look for the token and the key anew.
func (h *HSM) drop(l *link, err error) {
	if err == nil || l == nil || h.link != l {
		return
	}
	h.link = nil
	for _, session := range l.idle {
		h.module.CloseSession(session)
	}
}

func (h *HSM) connect() (*link, error) {
	slot, token, err := h.module.findSlot(h.uri)
	if err != nil {
		return nil, err
	}
	session, err := h.module.OpenSession(slot, p11.CKF_SERIAL_SESSION)
	if err != nil {
		return nil, classify("open a session", err)
	}
	l := &link{slot: slot, token: token, idle: []p11.SessionHandle{session}}
	if err = h.login(session, token); err == nil {
		l.key, err = h.findKey(session)
	}
	if err != nil {
		h.module.CloseSession(session)
		return nil, err
	}
	return l, nil
}

func (h *HSM) login(session p11.SessionHandle, token *p11.TokenInfo) error {
	if token.Flags&p11.CKF_LOGIN_REQUIRED == 0 {
		return nil
	}
	if h.uri.PINSource == "" {
		return keys.Errorf(keys.ClassNotPermitted, "the token wants a PIN: name a file that holds it with pin-source=file:/PATH")
	}
	pin, err := readPIN(h.uri.PINSource)
	if err != nil {
		return keys.Errorf(keys.ClassNotPermitted, "pin-source: %w", err)
	}
	defer clear(pin)
	err = h.module.Login(session, p11.CKU_USER, string(pin))
	if errors.Is(err, p11.Error(p11.CKR_USER_ALREADY_LOGGED_IN)) {
		return nil
	}
	err = classify("log in", err)
	if keys.ClassOf(err) == keys.ClassNotPermitted {
		h.refused = err
	}
	return err
}

func readPIN(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPIN+1))
	if err != nil {
		return nil, err
	}
	pin := bytes.TrimRight(data, "\r\n")
	if len(pin) == 0 || len(pin) > maxPIN {
		clear(data)
		return nil, fmt.Errorf("%s holds %d bytes, want 1 to %d", path, len(pin), maxPIN)
	}
	return pin, nil
}

func (h *HSM) findKey(session p11.SessionHandle) (p11.ObjectHandle, error) {
	template := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY),
		p11.NewAttribute(p11.CKA_TOKEN, true),
	}
	if h.uri.Object != "" {
		template = append(template, p11.NewAttribute(p11.CKA_LABEL, h.uri.Object))
	}
	if h.uri.ID != "" {
		template = append(template, p11.NewAttribute(p11.CKA_ID, []byte(h.uri.ID)))
	}
	if err := h.module.FindObjectsInit(session, template); err != nil {
		return 0, classify("look for the key", err)
	}
	found, _, err := h.module.FindObjects(session, 2)
	if err = errors.Join(err, h.module.FindObjectsFinal(session)); err != nil {
		return 0, classify("look for the key", err)
	}
	switch len(found) {
	case 0:
		return 0, keys.Errorf(keys.ClassKeyMissing, "the token has no secret key %v that this PIN may see", h.uri)
	case 1:
		return found[0], nil
	}
	return 0, keys.Errorf(keys.ClassInvalid, "more than one key matches %v: name both object= and id=", h.uri)
}

// closing is how long Close waits for calls under way.
const closing = 2 * time.Second

// Close ends all sessions and unloads the library if nobody else uses it. If a
// call hangs, it stays loaded.
func (h *HSM) Close() error {
	deadline := time.After(closing)
	for range maxSessions {
		select {
		case h.turns <- struct{}{}:
			defer func() { <-h.turns }()
		case <-deadline:
			return keys.Errorf(keys.ClassTimeout, "calls to the HSM are still under way: its library stays loaded")
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	if generation := h.module.enter(); h.link != nil && h.link.generation == generation {
		h.drop(h.link, errors.New("closed"))
	}
	h.module.leave()
	return h.module.close()
}
