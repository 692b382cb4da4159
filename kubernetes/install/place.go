// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/constellation-os/constellation/kubernetes/componentset"
	"github.com/constellation-os/constellation/kubernetes/oci"
)

const newPrefix = ".new-"

// errDamaged says that a set's folder is not as Install left it.
var errDamaged = errors.New("damaged")

// place makes the set's folder, all of it or nothing.
func (i *Installed) place(ctx context.Context, images map[string]*oci.Manifest) error {
	if err := i.checkPlaced(ctx); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errDamaged) {
		return err
	}
	sets := filepath.Dir(i.Dir)
	if err := os.MkdirAll(sets, 0o755); err != nil {
		return err
	}
	if err := removeUnfinished(sets); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(sets, newPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if err := i.writePrograms(ctx, dir, images); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, setFile), i.Set.Encode(), 0o644); err != nil {
		return err
	}
	if err := syncTree(dir); err != nil {
		return err
	}
	if err := os.RemoveAll(i.Dir); err != nil { // of a set that was found to be damaged
		return err
	}
	if err := os.Rename(dir, i.Dir); err != nil {
		return err
	}
	return syncDir(sets)
}

// checkPlaced reads the set's folder, if it is there.
func (i *Installed) checkPlaced(ctx context.Context) error {
	if _, err := readSet(i.Dir); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	checked := map[string]bool{}
	for _, c := range i.Set.Programs() {
		if err := ctx.Err(); err != nil {
			return err
		}
		path, _ := i.Program(c.Name)
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || info.Mode().Perm() != programMode || info.Size() != c.Size {
			return errDamaged
		}
		key := fmt.Sprint(inode(info), c.Digest)
		if checked[key] {
			continue // a link to a file that was read
		}
		checked[key] = true
		if err := checkFile(path, c.Digest); err != nil {
			return err
		}
	}
	return nil
}

func checkFile(path, digest string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	if hexSum(sum) != oci.Hex(digest) {
		return errDamaged
	}
	return nil
}

const programMode fs.FileMode = 0o755

// writePrograms takes each program out of its image. Programs of one content are one file with several names.
func (i *Installed) writePrograms(ctx context.Context, dir string, images map[string]*oci.Manifest) error {
	type content struct {
		digest string
		size   int64
	}
	first := map[content]string{} // where it is already
	for _, c := range i.Set.Programs() {
		to := filepath.Join(dir, filepath.FromSlash(c.InstallPath))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if from, ok := first[content{c.Digest, c.Size}]; ok {
			if err := os.Link(from, to); err != nil {
				return err
			}
			continue
		}
		if err := i.writeProgram(ctx, to, c, images[c.Image]); err != nil {
			return fmt.Errorf("program %s: %w", c.Name, err)
		}
		first[content{c.Digest, c.Size}] = to
	}
	return nil
}

func (i *Installed) writeProgram(ctx context.Context, to string, c componentset.Component, image *oci.Manifest) error {
	open := func(layer v1.Descriptor) (io.ReadCloser, error) { return os.Open(i.blobs.path(string(layer.Digest))) }
	return image.Files([]string{c.Path}, open, func(_ string, content io.Reader) error {
		f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, programMode)
		if err != nil {
			return err
		}
		defer f.Close()
		sum := sha256.New()
		n, err := io.Copy(io.MultiWriter(i.blobs.wrap(f), sum), io.LimitReader(&interruptible{ctx, content}, c.Size+1))
		switch {
		case err != nil:
			return err
		case n != c.Size:
			return fmt.Errorf("%w: want %d bytes", ErrProgram, c.Size)
		case hexSum(sum) != oci.Hex(c.Digest):
			return fmt.Errorf("%w: want %s", ErrProgram, c.Digest)
		}
		if err := f.Chmod(programMode); err != nil { // whatever the umask
			return err
		}
		return f.Sync()
	})
}

type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i *interruptible) Read(p []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(p)
}

func writeFile(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// syncTree makes the names in a folder durable, and those in the folders below it.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			err = syncDir(path)
		}
		return err
	})
}

// switchTo makes a set the current one, and returns the digest of the one before.
func switchTo(root string, set *componentset.Set) (previous string, err error) {
	link := filepath.Join(root, currentLink)
	target := filepath.Join(setsDir, oci.Hex(set.Digest()))
	old, err := os.Readlink(link)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if old == target {
		return "", nil
	}
	if dir, name := filepath.Split(old); filepath.Clean(dir) == setsDir && componentset.IsDigest("sha256:"+name) {
		previous = "sha256:" + name
	}
	temporary := link + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := os.Symlink(target, temporary); err != nil {
		return "", err
	}
	if err := os.Rename(temporary, link); err != nil {
		return "", err
	}
	return previous, syncDir(root)
}
