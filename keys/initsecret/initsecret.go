// SPDX-License-Identifier: Apache-2.0

// Package initsecret is the one-time secret by which the owner of a machine that has
// booted proves to be the owner. The machine's surroundings tell it the secret's
// SHA-256; the owner sends the secret itself, on the attested channel, to a machine that
// was verified.
//
// Not guaranteed: that the surroundings told the machine the right hash. One who can
// tell it another can make it part of a cluster of theirs, which is their machine then,
// and has nothing of ours.
package initsecret

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Size is that of a secret in bytes.
const Size = 32

// DefaultFile is where an init secret is made and looked for.
const DefaultFile = "constellation-init-secret"

// Create makes a random init secret in a new file with mode 0600, and returns
// its SHA-256. The file has its hexadecimal digits on one line.
func Create(path string) ([sha256.Size]byte, error) {
	secret := make([]byte, Size)
	defer clear(secret)
	rand.Read(secret) // never fails
	text := hex.AppendEncode(nil, secret)
	defer clear(text)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return [sha256.Size]byte{}, fmt.Errorf("%s exists and is not overwritten: a machine may be waiting for it", path)
	}
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	_, err = f.Write(append(text, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return [sha256.Size]byte{}, errors.Join(err, os.Remove(path))
	}
	return sha256.Sum256(secret), nil
}

// Load reads such a file. Only its owner may be able to.
func Load(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("init secret: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("init secret: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("init secret %s: mode %04o: want a regular file that only its owner can read (chmod 0600)", path, info.Mode().Perm())
	}
	buffer := make([]byte, 2*Size+2)
	defer clear(buffer)
	n, _ := f.Read(buffer)
	text := bytes.TrimSuffix(buffer[:n], []byte("\n"))
	secret := make([]byte, Size)
	if len(text) == 2*Size {
		_, err = hex.Decode(secret, text)
	}
	if len(text) != 2*Size || err != nil {
		return nil, fmt.Errorf("init secret %s: want %d hexadecimal digits", path, 2*Size)
	}
	return secret, nil
}
