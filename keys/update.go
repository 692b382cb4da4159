// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"fmt"
	"path/filepath"
)

// Update loads a master-secret file, has its keyring changed and replaces the
// file, while no other Update does. One that is under way is an error with
// [ClassThrottled]. Where path is a link, what it names is replaced. The keyring
// is the caller's to wipe; what change returns, ends it.
func Update(path string, change func(*Keyring) error) (*Keyring, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("master secret: %w", err)
	}
	unlock, err := lock(path)
	if err != nil {
		return nil, fmt.Errorf("master secret %s: %w", path, err)
	}
	defer unlock()
	r, err := Load(path)
	if err != nil {
		return nil, err
	}
	if err = change(r); err == nil {
		err = r.Replace(path)
	}
	if err != nil {
		r.Wipe()
		return nil, err
	}
	return r, nil
}
