// SPDX-License-Identifier: Apache-2.0

// Command mklayer makes a layer of a container image: files of locked Debian
// packages with the libraries that they need, files of ours, and declared folders and
// links, as package rootfs has them, in a tar archive compressed by zstd. The same
// inputs give the same bytes.
//
// A layer keeps the promises of the node's image: no shell or interpreter, no script,
// no setuid file.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/constellation-os/constellation/image/rootfs"
	"github.com/constellation-os/constellation/measurements/strictjson"
)

// inputs are what a layer is made of, all by the paths of files.
type inputs struct {
	Packages     []string `json:"packages"`
	Selections   []string `json:"selections"`
	Declarations []string `json:"declarations"`
	Files        []file   `json:"files"`
}

type file struct {
	Source string `json:"source"`
	Path   string `json:"path"`
	Mode   int64  `json:"mode"`
	Origin string `json:"origin"`
}

func main() {
	list := flag.String("inputs", "", "JSON file that lists the inputs")
	out := flag.String("out", "", "the layer to write")
	flag.Parse()
	if err := run(*list, *out); err != nil {
		fmt.Fprintln(os.Stderr, "mklayer:", err)
		os.Exit(1)
	}
}

func run(list, out string) error {
	data, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	var in inputs
	if err := strictjson.Decode(data, &in); err != nil {
		return fmt.Errorf("%s: %w", list, err)
	}
	tree, err := compose(in)
	if err != nil {
		return err
	}
	if problems := tree.Problems(false); len(problems) > 0 {
		return fmt.Errorf("the layer has what it must not have:\n  %s", strings.Join(problems, "\n  "))
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := write(f, tree); err != nil {
		return err
	}
	return f.Close()
}

func compose(in inputs) (rootfs.Tree, error) {
	selections, err := readAll(in.Selections)
	if err != nil {
		return nil, err
	}
	selection, err := rootfs.ParseSelection(selections...)
	if err != nil {
		return nil, err
	}
	builder := rootfs.NewBuilder(selection)
	for _, p := range in.Packages {
		if err := addPackage(builder, p); err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
	}
	if err := builder.Finish(); err != nil {
		return nil, err
	}
	for _, f := range in.Files {
		content, err := os.ReadFile(f.Source)
		if err != nil {
			return nil, err
		}
		if err := builder.Tree.AddOwn(f.Path, f.Mode, content, f.Origin); err != nil {
			return nil, err
		}
	}
	if err := builder.AddLibraries(); err != nil {
		return nil, err
	}
	declarations, err := readAll(in.Declarations)
	if err != nil {
		return nil, err
	}
	for i, declaration := range declarations {
		if err := builder.Tree.Declare(declaration); err != nil {
			return nil, fmt.Errorf("%s: %w", in.Declarations[i], err)
		}
	}
	return builder.Tree, nil
}

func addPackage(builder *rootfs.Builder, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return builder.AddPackage(strings.TrimSuffix(filepath.Base(path), ".deb"), f)
}

// write compresses with one thread, so that the bytes do not depend on how many the machine has.
func write(w io.Writer, tree rootfs.Tree) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	return errors.Join(tree.WriteTar(z, time.Unix(0, 0)), z.Close())
}

func readAll(paths []string) ([]string, error) {
	var texts []string
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		texts = append(texts, string(text))
	}
	return texts, nil
}
