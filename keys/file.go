// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// FileFormat names the format of a master-secret file.
const FileFormat = "constellation-master-secret/v1"

// MaxFileSize is that of a master-secret file.
const MaxFileSize = 16 << 10

// file is a master-secret file. Its secrets are byte slices, which encoding/json
// decodes without making strings of them: those could not be wiped.
type file struct {
	Format  string       `json:"format"`
	Salt    []byte       `json:"salt"`
	Secrets []fileSecret `json:"secrets"`
	// There once version 1 is retired.
	Measurement []byte `json:"measurement,omitempty"`
}

type fileSecret struct {
	Version Version `json:"version"`
	Secret  []byte  `json:"secret"`
}

// Parse reads a keyring from the content of a master-secret file. Its errors
// have [ClassMalformed].
func Parse(data []byte) (*Keyring, error) {
	if len(data) > MaxFileSize {
		return nil, Errorf(ClassMalformed, "more than %d bytes", MaxFileSize)
	}
	var f file
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	// The decoder's errors can quote what it read.
	if dec.Decode(&f) != nil {
		return nil, Errorf(ClassMalformed, "not a master-secret file: not JSON with the fields of %s", FileFormat)
	}
	r, err := f.keyring()
	if err == nil && len(bytes.TrimSpace(data[dec.InputOffset():])) != 0 {
		err = Errorf(ClassMalformed, "something follows the master secret")
	}
	if err != nil {
		f.wipe()
		return nil, err
	}
	return r, nil
}

func (f *file) keyring() (*Keyring, error) {
	if f.Format != FileFormat {
		return nil, Errorf(ClassMalformed, "not a master-secret file: its format is not %q", FileFormat)
	}
	if len(f.Salt) != SaltSize {
		return nil, Errorf(ClassMalformed, "the salt has %d bytes, not %d", len(f.Salt), SaltSize)
	}
	if len(f.Secrets) == 0 || len(f.Secrets) > maxVersions {
		return nil, Errorf(ClassMalformed, "%d secrets, want 1 to %d", len(f.Secrets), maxVersions)
	}
	r := &Keyring{salt: f.Salt, secrets: map[Version]Secret{}}
	for _, s := range f.Secrets {
		if s.Version <= r.newest {
			return nil, Errorf(ClassMalformed, "version %d after %d: versions start at 1 and ascend", s.Version, r.newest)
		}
		if err := checkSecret(s.Secret, MasterSecretSize); err != nil {
			return nil, fmt.Errorf("secret of version %d: %w", s.Version, err)
		}
		r.newest = s.Version
		r.secrets[s.Version] = NewSecret(s.Secret)
	}
	if _, first := r.secrets[1]; first != (len(f.Measurement) == 0) {
		return nil, Errorf(ClassMalformed, "the measurement secret is there if, and only if, version 1 is not")
	} else if !first {
		if err := checkSecret(f.Measurement, MeasurementSize); err != nil {
			return nil, fmt.Errorf("measurement secret: %w", err)
		}
		r.measurement = NewSecret(f.Measurement)
	}
	return r, nil
}

func checkSecret(b []byte, size int) error {
	if len(b) != size {
		return Errorf(ClassMalformed, "%d bytes, not %d", len(b), size)
	}
	if bytes.Count(b, b[:1]) == len(b) {
		return Errorf(ClassMalformed, "all bytes are the same: not a secret")
	}
	return nil
}

func (f *file) wipe() {
	for _, s := range f.Secrets {
		clear(s.Secret)
	}
	clear(f.Measurement)
}

// Marshal is the content of the keyring's master-secret file, all of it secret.
// The caller wipes it.
func (r *Keyring) Marshal() (out []byte, err error) {
	versions := r.Versions()
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.secrets) == 0 || len(versions) != len(r.secrets) {
		return nil, Errorf(ClassInternal, "the keyring was wiped or changed")
	}
	f := file{Format: FileFormat, Salt: r.salt, Measurement: r.measurement.Copy()}
	defer f.wipe()
	for _, v := range versions {
		f.Secrets = append(f.Secrets, fileSecret{v, r.secrets[v].Copy()})
	}
	out, err = json.MarshalIndent(f, "", "  ")
	return append(out, '\n'), err
}

// Load reads a master-secret file. The file must be a regular one that only its
// owner, the calling user, can read: errors have [ClassPermissions],
// [ClassMalformed] or wrap what the system says.
func Load(path string) (*Keyring, error) {
	// A pipe is refused, rather than waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("master secret: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("master secret: %w", err)
	}
	if err := checkFile(info); err != nil {
		return nil, fmt.Errorf("master secret %s: %w", path, err)
	}
	data := make([]byte, info.Size())
	defer clear(data)
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("master secret %s: %w", path, err)
	}
	r, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("master secret %s: %w", path, err)
	}
	return r, nil
}

func checkFile(info fs.FileInfo) error {
	switch {
	case !info.Mode().IsRegular():
		return Errorf(ClassPermissions, "not a regular file")
	case info.Mode().Perm()&0o077 != 0:
		return Errorf(ClassPermissions, "mode %04o lets others in: run chmod 0600 on it, and rotate the secret if others had access", info.Mode().Perm())
	case !ownedByUs(info):
		return Errorf(ClassPermissions, "owned by another user")
	case info.Size() == 0 || info.Size() > MaxFileSize:
		return Errorf(ClassMalformed, "%d bytes, want 1 to %d", info.Size(), MaxFileSize)
	}
	return nil
}

// Create writes the keyring to a new file with mode 0600 and makes sure that it
// is on the disk. A file that is there already is an error with [ClassExists].
func (r *Keyring) Create(path string) error {
	data, err := r.Marshal()
	if err != nil {
		return err
	}
	defer clear(data)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return Errorf(ClassExists, "%s exists and is not overwritten: it may be the only copy of a cluster's master secret", path)
	}
	if err != nil {
		return err
	}
	// Half a secret is none, and would be in the way of the next attempt.
	if err := writeAndSync(f, data); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return syncFolder(filepath.Dir(path))
}

// Replace writes the keyring over a master-secret file: it is there with its old
// or its new content, whole, whatever happens.
func (r *Keyring) Replace(path string) error {
	data, err := r.Marshal()
	if err != nil {
		return err
	}
	defer clear(data)
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // has mode 0600
	if err != nil {
		return err
	}
	if err := writeAndSync(f, data); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncFolder(filepath.Dir(path))
}

func writeAndSync(f *os.File, data []byte) error {
	_, err := f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
