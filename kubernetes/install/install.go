// SPDX-License-Identifier: Apache-2.0

// Package install brings a component set onto a node: it fetches what the node does
// not have, checks it, puts programs in place, and gives images to the container
// runtime.
//
// Where components come from is not trusted. Sources are OCI registries, asked in
// their order: one that lies, truncates, stalls or has nothing leads to the next one,
// and at the end to an error that names each one's failure. What was fetched stays
// through a failure, and is not fetched again. Nothing is run, nor given to the
// runtime, before its digest was found to be the set's.
//
// Below its root, which must be the node's alone and is trusted:
//
//	blobs/HEX          content by its SHA-256: manifests, configurations, layers
//	partial/HEX        what was fetched of it so far
//	sets/HEX/          a set that is complete: components.json and its programs
//	current            link to the set that is in use, switched at once
//
// Not guaranteed: that a malicious source cannot make an installation slow. One that
// sends at least MinProgress within every Options.Stall is listened to.
package install

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/constellation-os/constellation/kubernetes/componentset"
	"github.com/constellation-os/constellation/kubernetes/oci"
)

// Defaults of Options.
const (
	DefaultParallel = 4
	DefaultStall    = 30 * time.Second
)

// Options of Install.
type Options struct {
	// Root is the folder that everything is kept in. It is made.
	Root string
	// Sources are base URLs of registries, such as https://registry.example.org/mirror, in the order in which they
	// are asked.
	Sources []string
	// Progress is told how many bytes are there of those that the set needs, and what is worked on. It is called by
	// one goroutine at a time and must not block. It may be nil.
	Progress func(done, total int64, detail string)

	// Parallel is how many downloads run at once. 0 stands for DefaultParallel.
	Parallel int
	// Stall is how long a source may take to send MinProgress, or to answer. 0 stands for DefaultStall.
	Stall time.Duration
	// Transport makes the requests. nil stands for one without proxies.
	Transport http.RoundTripper

	// disk and free stand for the node's disk in tests of disks that are full.
	disk func(io.Writer) io.Writer
	free func(dir string) (int64, error)
}

// Installed is a set that is complete on this node.
type Installed struct {
	Set *componentset.Set
	// Dir is the folder of the set's programs, below Root.
	Dir string
	// Root is that of Options.
	Root string

	blobs *store
}

// Program is where a program is.
func (i *Installed) Program(name string) (string, bool) {
	c, ok := i.Set.Program(name)
	return filepath.Join(i.Dir, filepath.FromSlash(c.InstallPath)), ok
}

// Install makes a set complete and the current one. It may be called again after any
// failure, and then goes on. Afterwards the set that was current before is still
// there, and what neither of the two needs is gone.
//
// Errors to act on: *FetchError, *SpaceError, ErrBusy, ErrNoSources,
// ErrProgram.
func Install(ctx context.Context, set *componentset.Set, o Options) (*Installed, error) {
	// Whatever made the set, it is used as its encoding says.
	set, err := componentset.Parse(set.Encode())
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Root, 0o755); err != nil {
		return nil, localError(o.Root, err)
	}
	unlock, err := lock(o.Root)
	if err != nil {
		return nil, err
	}
	defer unlock()
	blobs, err := openStore(o.Root)
	if err != nil {
		return nil, localError(o.Root, err)
	}
	if o.disk != nil {
		blobs.wrap = o.disk
	}
	images, err := fetch(ctx, set, blobs, o)
	if err != nil {
		return nil, err
	}
	in := &Installed{Set: set, Root: o.Root, Dir: setDir(o.Root, set), blobs: blobs}
	if err := in.place(ctx, images); err != nil {
		return nil, localError(o.Root, err)
	}
	previous, err := switchTo(o.Root, set)
	if err != nil {
		return nil, localError(o.Root, err)
	}
	if err := collect(o.Root, blobs, set.Digest(), previous); err != nil {
		return nil, fmt.Errorf("remove what is not needed any more: %w", err)
	}
	return in, nil
}

// Current is the set that Install completed last. The error is fs.ErrNotExist if there is none.
func Current(root string) (*Installed, error) {
	target, err := os.Readlink(filepath.Join(root, currentLink))
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(root, target)
	set, err := readSet(dir)
	if err != nil {
		return nil, err
	}
	if dir != setDir(root, set) {
		return nil, fmt.Errorf("%s is not the set that its name says", dir)
	}
	blobs, err := openStore(root)
	if err != nil {
		return nil, err
	}
	return &Installed{Set: set, Root: root, Dir: dir, blobs: blobs}, nil
}

func readSet(dir string) (*componentset.Set, error) {
	f, err := os.Open(filepath.Join(dir, setFile))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := readAll(f, componentset.MaxEncoding)
	if err != nil {
		return nil, err
	}
	return componentset.Parse(data)
}

func setDir(root string, set *componentset.Set) string {
	return filepath.Join(root, setsDir, oci.Hex(set.Digest()))
}

// localError says what a full disk means.
func localError(root string, err error) error {
	if isNoSpace(err) {
		return &SpaceError{Dir: root, Err: err}
	}
	return err
}
