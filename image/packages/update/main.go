// SPDX-License-Identifier: Apache-2.0

// Update renews lock.json, the list of the exact Debian packages that the
// image is made of, from packages.yaml and a mirror of Debian's archive:
//
//	tools/bazel run //image/packages:update
//	go run ./image/packages/update
//
// It verifies the signatures of the release files against the machine's Debian
// keyring, checks the indices against them, resolves dependencies, downloads
// the packages (to learn their licences), and shows what changes. The old lock
// is replaced only when everything succeeded. See package archive for what is
// trusted; mirrors are found as described at [archive.FindMirrors].
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/constellation-os/constellation/image/packages/archive"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintf(os.Stderr, "update: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("update", flag.ContinueOnError)
	dir := flags.String("dir", "", "folder of packages.yaml and lock.json (default: image/packages of the source tree)")
	keyring := flags.String("keyring", archive.DefaultKeyring, "OpenPGP keyring that the archives' signatures are checked with")
	aptDir := flags.String("apt", "/etc/apt", "apt configuration to find mirrors in")
	cache := flags.String("cache", "", "folder that keeps downloaded packages (default: in the user's cache folder)")
	export := flags.String("export", "", "also write the locked packages into this folder")
	allowOld := flags.Bool("allow-old", false, "accept releases past their Valid-Until or older than the lock, for mirrors and snapshots that stand still")
	check := flags.Bool("check", false, "write nothing; fail if the lock would change")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	u := &updater{progress: os.Stderr, out: os.Stdout, allowOld: *allowOld, check: *check, export: *export}
	var err error
	if u.dir, err = packagesDir(*dir); err != nil {
		return err
	}
	if u.cache, err = cacheDir(*cache); err != nil {
		return err
	}
	u.client.HTTP = http.DefaultClient
	if u.client.Mirrors, err = archive.FindMirrors(os.Getenv, *aptDir); err != nil {
		return err
	}
	if u.client.Keyring, err = archive.ReadKeyring(*keyring); err != nil {
		return err
	}
	return u.update(ctx)
}

// packagesDir finds image/packages in the source tree: where "bazel run" says
// that it is, or above the working directory.
func packagesDir(dir string) (string, error) {
	if dir != "" {
		return dir, nil
	}
	top := os.Getenv("BUILD_WORKSPACE_DIRECTORY")
	if top == "" {
		var err error
		if top, err = os.Getwd(); err != nil {
			return "", err
		}
	}
	for {
		candidate := filepath.Join(top, "image", "packages")
		if _, err := os.Stat(filepath.Join(candidate, "packages.yaml")); err == nil {
			return candidate, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if filepath.Dir(top) == top {
			return "", errors.New("no image/packages/packages.yaml here or above: run in the source tree, or use -dir")
		}
		top = filepath.Dir(top)
	}
}

func cacheDir(dir string) (string, error) {
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("%w; use -cache", err)
		}
		dir = filepath.Join(base, "constellation", "debian")
	}
	return dir, os.MkdirAll(dir, 0o755)
}
