// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"bytes"
	"context"
	"os"
	"sync"
	"time"
)

// reloadPause is how often a [File] looks whether its file changed, at most.
const reloadPause = time.Second

// File is a [Source] that follows a master-secret file: after a rotation it uses
// the new content without a restart. A new content that cannot be used, or whose
// keys would contradict those handed out before, is ignored, and the old stays in
// use; Health says so.
type File struct {
	path string

	mu      sync.RWMutex
	ring    *Keyring
	seen    os.FileInfo
	checked time.Time
	err     error // of the last change
	now     func() time.Time
}

// Open loads a master-secret file like [Load] and follows it.
func Open(path string) (*File, error) {
	f := &File{path: path, now: time.Now}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if f.ring, err = Load(path); err != nil {
		return nil, err
	}
	f.seen, f.checked = info, f.now()
	return f, nil
}

// DataKey implements [Source].
func (f *File) DataKey(ctx context.Context, purpose Purpose, id string, length int, version Version) (*DataKey, error) {
	f.reload()
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.ring.DataKey(ctx, purpose, id, length, version)
}

// Health reports that the file changed to something that cannot be used.
func (f *File) Health(context.Context) error {
	f.reload()
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.err
}

// Close wipes the secrets.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ring.Wipe()
	return nil
}

// follows says whether r can take the place of old while keys are in use: it is of
// the same cluster, no version became another secret, and none of the newest ones
// went away. Errors have [ClassInvalid].
func (r *Keyring) follows(old *Keyring) error {
	now, err := r.ClusterID()
	if err != nil {
		return err
	}
	before, err := old.ClusterID()
	if err != nil {
		return err
	}
	if now != before || !bytes.Equal(r.salt, old.salt) {
		return Errorf(ClassInvalid, "the master secret is of cluster %v, not %v: its keys would be other ones", now, before)
	}
	if r.newest < old.newest {
		return Errorf(ClassInvalid, "the master secret ends with version %d, and version %d was in use: an old copy?", r.newest, old.newest)
	}
	for version, secret := range old.secrets {
		if another, ok := r.secrets[version]; ok && !another.Equal(secret) {
			return Errorf(ClassInvalid, "version %d of the master secret is another one than before", version)
		}
	}
	return nil
}

func (f *File) reload() {
	f.mu.RLock()
	fresh := f.now().Sub(f.checked) < reloadPause
	f.mu.RUnlock()
	if fresh {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.now().Sub(f.checked) < reloadPause {
		return
	}
	f.checked = f.now()
	info, err := os.Stat(f.path)
	if err != nil {
		f.err = err
		return
	}
	if os.SameFile(info, f.seen) && info.ModTime().Equal(f.seen.ModTime()) && info.Size() == f.seen.Size() {
		f.err = nil // it may have been away
		return
	}
	ring, err := Load(f.path)
	if err == nil {
		if err = ring.follows(f.ring); err != nil {
			ring.Wipe()
		}
	}
	if f.err = err; err != nil {
		return
	}
	f.ring.Wipe()
	f.ring, f.seen = ring, info
}
