// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/constellation-os/constellation/image/packages/archive"
	"github.com/constellation-os/constellation/image/packages/lock"
	"github.com/constellation-os/constellation/image/packages/resolve"
)

type updater struct {
	client   archive.Client
	dir      string // of packages.yaml and lock.json
	cache    string
	export   string // empty: do not export
	allowOld bool
	check    bool
	progress io.Writer // for the person who waits
	out      io.Writer // the result
}

func (u *updater) update(ctx context.Context) error {
	text, err := os.ReadFile(filepath.Join(u.dir, "packages.yaml"))
	if err != nil {
		return err
	}
	wanted, err := resolve.ReadWanted(text)
	if err != nil {
		return err
	}
	path := filepath.Join(u.dir, "lock.json")
	before, err := lock.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		before, err = &lock.Lock{Version: lock.Version}, nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w; restore or delete it", path, err)
	}
	after := &lock.Lock{Version: lock.Version}
	offered, err := u.suites(ctx, wanted, before, after)
	if err != nil {
		return err
	}
	chosen, err := u.resolve(wanted, offered, after)
	if err != nil {
		return err
	}
	if err := u.describe(ctx, chosen, after); err != nil {
		return err
	}
	return u.finish(path, before, after)
}

// suites fetches the verified releases and indices.
func (u *updater) suites(ctx context.Context, wanted *resolve.Wanted, before, after *lock.Lock) ([]*archive.Package, error) {
	var offered []*archive.Package
	for _, suite := range wanted.Suites {
		fmt.Fprintf(u.progress, "%s: release and index\n", suite.Suite)
		release, err := u.client.Release(ctx, suite.Archive, suite.Suite)
		if errors.Is(err, archive.ErrExpired) {
			if !u.allowOld {
				return nil, fmt.Errorf("%w: the mirror stands still, or an attacker replays an old state; -allow-old accepts it", err)
			}
			fmt.Fprintf(u.progress, "%v (accepted)\n", err)
		} else if err != nil {
			return nil, err
		}
		for _, known := range before.Archives {
			if known.Suite == suite.Suite && release.Date.Before(known.ReleaseDate) && !u.allowOld {
				return nil, fmt.Errorf("%s: the mirror's release of %s is older than the lock's of %s; -allow-old accepts it",
					suite.Suite, release.Date.UTC().Format("2006-01-02 15:04"), known.ReleaseDate.Format("2006-01-02 15:04"))
			}
		}
		fmt.Fprintf(u.progress, "%s: release of %s, %d good signatures\n", suite.Suite, release.Date.UTC().Format("2006-01-02 15:04"), len(release.Signers))
		packages, err := u.client.Index(ctx, suite.Archive, suite.Suite, release, suite.Component, wanted.Architecture)
		if err != nil {
			return nil, err
		}
		offered = append(offered, packages...)
		after.Archives = append(after.Archives, lock.Archive{Name: suite.Archive, Suite: suite.Suite, ReleaseDate: release.Date.UTC()})
	}
	return offered, nil
}

// resolve chooses the packages of all groups and enters them into the lock,
// still without licences.
func (u *updater) resolve(wanted *resolve.Wanted, offered []*archive.Package, after *lock.Lock) ([]*archive.Package, error) {
	universe := resolve.NewUniverse(offered, wanted.Architecture)
	groups := map[*archive.Package][]string{}
	for _, name := range slices.Sorted(maps.Keys(wanted.Groups)) {
		selection, err := universe.Resolve(wanted.Groups[name])
		if err != nil {
			return nil, fmt.Errorf("group %s: %w", name, err)
		}
		fmt.Fprintf(u.progress, "group %s: %d packages\n", name, len(selection.Packages))
		for _, d := range selection.Dropped {
			fmt.Fprintf(u.progress, "  dropped: %s wants %s (refused: %s)\n", d.Package, d.Relation, d.Refused)
		}
		for _, unused := range selection.Unused {
			fmt.Fprintf(u.progress, "  note: nothing asks for %s any more; it need not be refused\n", unused)
		}
		for _, p := range selection.Packages {
			groups[p] = append(groups[p], name)
		}
	}
	chosen := slices.SortedFunc(maps.Keys(groups), func(a, b *archive.Package) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	for _, p := range chosen {
		after.Packages = append(after.Packages, lock.Package{
			Name: p.Name, Version: p.Version.String(), Architecture: p.Architecture,
			SHA256: p.SHA256, Size: p.Size, InstalledSize: p.InstalledSize,
			Archive: p.Archive, Path: p.Path,
			Source: p.Source, SourceVersion: p.SourceVersion, Groups: groups[p],
		})
	}
	return chosen, nil
}

func (u *updater) finish(path string, before, after *lock.Lock) error {
	old, err := before.Marshal()
	if err != nil {
		return err
	}
	data, err := after.Marshal()
	if err != nil {
		return err
	}
	diff := lock.Diff(before, after)
	switch {
	case string(old) == string(data):
		fmt.Fprintln(u.out, "The lock is up to date.")
		return nil
	case diff == "":
		fmt.Fprintln(u.out, "Newer releases, the same packages.")
	default:
		fmt.Fprint(u.out, diff)
	}
	if u.check {
		return errors.New("the lock is not up to date")
	}
	if err := lock.ReplaceFile(path, data); err != nil {
		return err
	}
	fmt.Fprintf(u.out, "Wrote %s.\n", path)
	return nil
}
