// SPDX-License-Identifier: Apache-2.0

//go:build cgo

package pkcs11

import (
	"errors"
	"os"
	"sync"

	p11 "github.com/miekg/pkcs11"

	"github.com/constellation-os/constellation/keys"
)

// A module is initialised once in a process, and so is shared by all who use it.
var (
	modulesMu sync.Mutex
	modules   = map[string]*module{}
)

type module struct {
	*p11.Ctx
	path  string
	users int

	calls      sync.RWMutex // held for reading by calls under way
	generation int          // counts initialisations: handles of another are void
}

// enter begins a call and returns the generation; leave ends it.
func (m *module) enter() int {
	m.calls.RLock()
	return m.generation
}

func (m *module) leave() { m.calls.RUnlock() }

// reset initialises the module anew, for some never find a token again that was
// away. It does nothing if calls are under way or somebody else did it already.
func (m *module) reset(generation int) {
	if !m.calls.TryLock() {
		return
	}
	defer m.calls.Unlock()
	if m.generation == generation {
		m.generation++
		// If this fails, so does the next call, with the reason.
		m.Finalize()
		m.Initialize()
	}
}

func openModule(path string) (*module, error) {
	modulesMu.Lock()
	defer modulesMu.Unlock()
	if m, ok := modules[path]; ok {
		m.users++
		return m, nil
	}
	if _, err := os.Stat(path); err != nil {
		return nil, keys.Errorf(keys.ClassInvalid, "the HSM's library: %w", err)
	}
	c := p11.New(path)
	if c == nil {
		return nil, keys.Errorf(keys.ClassInvalid, "%s cannot be loaded as a PKCS#11 library: is it one, for this processor, with all that it needs installed?", path)
	}
	if err := c.Initialize(); err != nil {
		c.Destroy()
		return nil, classify("initialise the HSM's library", err)
	}
	m := &module{Ctx: c, path: path, users: 1}
	modules[path] = m
	return m, nil
}

func (m *module) close() error {
	modulesMu.Lock()
	defer modulesMu.Unlock()
	if m.users--; m.users > 0 {
		return nil
	}
	delete(modules, m.path)
	err := m.Finalize()
	m.Destroy()
	return classify("finalise the HSM's library", err)
}

// findSlot returns the only slot whose token matches.
func (m *module) findSlot(u *URI) (uint, *p11.TokenInfo, error) {
	slots, err := m.GetSlotList(true)
	if err != nil {
		return 0, nil, classify("list slots", err)
	}
	var found uint
	var token *p11.TokenInfo
	for _, slot := range slots {
		info, err := m.GetTokenInfo(slot)
		if errors.Is(err, p11.Error(p11.CKR_TOKEN_NOT_PRESENT)) {
			continue
		}
		if err != nil {
			return 0, nil, classify("read a token's description", err)
		}
		if info.Flags&p11.CKF_TOKEN_INITIALIZED == 0 || !matches(u, &info) {
			continue
		}
		if token != nil {
			return 0, nil, keys.Errorf(keys.ClassInvalid, "more than one token matches %v: add serial=", u)
		}
		found, token = slot, &info
	}
	if token == nil {
		return 0, nil, keys.Errorf(keys.ClassUnreachable, "no token matches %v", u)
	}
	return found, token, nil
}

func matches(u *URI, info *p11.TokenInfo) bool {
	fits := func(want, have string) bool { return want == "" || want == have }
	return fits(u.Token, info.Label) && fits(u.Manufacturer, info.ManufacturerID) &&
		fits(u.Serial, info.SerialNumber) && fits(u.Model, info.Model)
}
