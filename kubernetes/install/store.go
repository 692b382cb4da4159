// SPDX-License-Identifier: Apache-2.0

package install

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/constellation-os/constellation/kubernetes/oci"
)

// Names below the root.
const (
	blobsDir    = "blobs"
	partialDir  = "partial"
	setsDir     = "sets"
	currentLink = "current"
	lockFile    = "lock"
	setFile     = "components.json"
)

// store keeps content by its digest.
type store struct {
	blobs, partial string
	// wrap stands between a download and its file, for tests of disks that fail.
	wrap func(io.Writer) io.Writer
}

func openStore(root string) (*store, error) {
	s := &store{blobs: filepath.Join(root, blobsDir), partial: filepath.Join(root, partialDir), wrap: func(w io.Writer) io.Writer { return w }}
	for _, dir := range []string{s.blobs, s.partial} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *store) path(digest string) string        { return filepath.Join(s.blobs, oci.Hex(digest)) }
func (s *store) partialPath(digest string) string { return filepath.Join(s.partial, oci.Hex(digest)) }

// has says whether the content is there, after reading it: what is not as it must be
// is removed.
func (s *store) has(digest string, size int64) (bool, error) {
	f, err := os.Open(s.path(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(f, size+1))
	if err != nil {
		return false, err
	}
	if n != size || hexSum(sum) != oci.Hex(digest) {
		return false, os.Remove(f.Name())
	}
	return true, nil
}

// read returns small content, checked again.
func (s *store) read(digest string, limit int64) ([]byte, error) {
	f, err := os.Open(s.path(digest))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := readAll(f, limit)
	if err == nil && oci.Digest(data) != digest {
		err = fmt.Errorf("%s: the content is not that of its digest", f.Name())
	}
	return data, err
}

// partialSize is how many bytes of the content were fetched before.
func (s *store) partialSize(digest string) int64 {
	info, err := os.Stat(s.partialPath(digest))
	if err != nil {
		return 0
	}
	return info.Size()
}

// download is content on its way into the store.
type download struct {
	store  *store
	digest string
	file   *os.File
	sum    hash.Hash
	to     io.Writer
	// size is how many bytes are there.
	size int64
}

// begin opens the partial file of some content, and keeps what is in it unless that is too much.
func (s *store) begin(digest string, limit int64) (*download, error) {
	f, err := os.OpenFile(s.partialPath(digest), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	d := &download{store: s, digest: digest, file: f, sum: sha256.New()}
	d.to = s.wrap(f)
	d.size, err = io.Copy(d.sum, io.LimitReader(f, limit+1))
	if err == nil && d.size > limit {
		err = d.restart()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return d, nil
}

// restart forgets what is there.
func (d *download) restart() error {
	d.sum.Reset()
	d.size = 0
	if err := d.file.Truncate(0); err != nil {
		return err
	}
	_, err := d.file.Seek(0, io.SeekStart)
	return err
}

// Write adds to the content. Its errors are the disk's.
func (d *download) Write(p []byte) (int, error) {
	n, err := d.to.Write(p)
	d.sum.Write(p[:n])
	d.size += int64(n)
	return n, err
}

// isRight says whether what is there is what the digest says.
func (d *download) isRight() bool { return hexSum(d.sum) == oci.Hex(d.digest) }

// commit makes the content part of the store, and durable.
func (d *download) commit() error {
	if err := d.file.Sync(); err != nil {
		return err
	}
	if err := os.Rename(d.store.partialPath(d.digest), d.store.path(d.digest)); err != nil {
		return err
	}
	return syncDir(d.store.blobs)
}

func hexSum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// lock keeps others away from the root until unlock is called.
func lock(root string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(root, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, localError(root, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", root, ErrBusy)
		}
		return nil, err
	}
	return func() { f.Close() }, nil
}

// free is how many bytes can still be written below a folder.
func free(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}

func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	return data, err
}
