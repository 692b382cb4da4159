// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/constellation-os/constellation/image/deb"
	"github.com/constellation-os/constellation/image/packages/archive"
	"github.com/constellation-os/constellation/image/packages/licence"
	"github.com/constellation-os/constellation/image/packages/lock"
)

const downloads = 4 // at once

// A copyrightFile is what a package says about its licence: a text, or the
// name of the package whose documentation it shares.
type copyrightFile struct {
	text []byte
	from string
}

// describe downloads the packages and enters their licences.
func (u *updater) describe(ctx context.Context, chosen []*archive.Package, after *lock.Lock) error {
	copyrights := map[string]copyrightFile{}
	var mutex sync.Mutex
	var done int
	err := parallel(ctx, downloads, len(chosen), func(ctx context.Context, i int) error {
		p := chosen[i]
		data, err := u.fetch(ctx, p)
		if err != nil {
			return fmt.Errorf("%s %s: %w", p.Name, p.Version.String(), err)
		}
		if err := u.exportPackage(p, data); err != nil {
			return err
		}
		file, err := readCopyright(data, p.Name)
		if err != nil {
			return fmt.Errorf("%s %s: %w", p.Name, p.Version.String(), err)
		}
		mutex.Lock()
		defer mutex.Unlock()
		copyrights[p.Name] = file
		done++
		fmt.Fprintf(u.progress, "[%d/%d] %s\n", done, len(chosen), path.Base(p.Path))
		return nil
	})
	if err != nil {
		return err
	}
	for i := range after.Packages {
		p := &after.Packages[i]
		file := copyrights[p.Name]
		if file.from != "" {
			file = copyrights[file.from]
		}
		p.Licence = licence.Expression(file.text)
	}
	return nil
}

// fetch returns the checked bytes of a package, from the cache if they are there.
func (u *updater) fetch(ctx context.Context, p *archive.Package) ([]byte, error) {
	name := filepath.Join(u.cache, p.SHA256+".deb")
	data, err := os.ReadFile(name)
	if err == nil {
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) == p.SHA256 {
			return data, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if data, err = u.client.Package(ctx, p); err != nil {
		return nil, err
	}
	return data, lock.ReplaceFile(name, data)
}

func (u *updater) exportPackage(p *archive.Package, data []byte) error {
	if u.export == "" {
		return nil
	}
	if err := os.MkdirAll(u.export, 0o755); err != nil {
		return err
	}
	return lock.ReplaceFile(filepath.Join(u.export, p.Name+".deb"), data)
}

// readCopyright finds usr/share/doc/NAME/copyright, or the package that the
// folder or the file is a link to.
func readCopyright(data []byte, name string) (copyrightFile, error) {
	folder := "usr/share/doc/" + name
	var file copyrightFile
	keep := func(p string) bool { return p == folder || p == folder+"/copyright" }
	err := deb.Read(bytes.NewReader(data), keep, func(f deb.File) error {
		switch f.Type {
		case tar.TypeReg:
			file.text = f.Content
		case tar.TypeSymlink:
			target := path.Join("/", path.Dir(f.Path), f.Target)
			if path.IsAbs(f.Target) {
				target = path.Clean(f.Target)
			}
			rest, ok := strings.CutPrefix(target, "/usr/share/doc/")
			if ok {
				file.from, _, _ = strings.Cut(rest, "/")
			}
		}
		return nil
	})
	return file, err
}

// parallel calls work for 0 to n-1, at most width at a time, and stops handing
// out work at the first error.
func parallel(ctx context.Context, width, n int, work func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var wait sync.WaitGroup
	for range width {
		wait.Go(func() {
			for i := range next {
				if err := work(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	wait.Wait()
	return context.Cause(ctx)
}
