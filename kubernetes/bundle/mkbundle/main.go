// SPDX-License-Identifier: Apache-2.0

// Command mkbundle makes a bundle of layers, see package bundle, and verifies it.
//
//	mkbundle -contents FILE -out DIR [-gomod FILE]...
//
// A version "@MODULE" stands for the version of that module in one of the go.mod
// files, so that versions are written down once.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/constellation-os/constellation/kubernetes/bundle"
	"github.com/constellation-os/constellation/measurements/strictjson"
	"github.com/constellation-os/constellation/tools/gomodule/gomod"
)

func main() {
	var goMods []string
	list := flag.String("contents", "", "JSON file that says what is in the bundle")
	out := flag.String("out", "", "folder to write")
	flag.Func("gomod", "go.mod file with versions; may be repeated", func(s string) error {
		goMods = append(goMods, s)
		return nil
	})
	flag.Parse()
	if err := run(*list, *out, goMods); err != nil {
		fmt.Fprintln(os.Stderr, "mkbundle:", err)
		os.Exit(1)
	}
}

func run(list, out string, goMods []string) error {
	data, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	var c bundle.Contents
	if err := strictjson.Decode(data, &c); err != nil {
		return fmt.Errorf("%s: %w", list, err)
	}
	if c.Kubernetes, err = version(c.Kubernetes, goMods); err != nil {
		return err
	}
	for i := range c.Images {
		if c.Images[i].Version, err = version(c.Images[i].Version, goMods); err != nil {
			return err
		}
	}
	b, err := bundle.Create(out, c)
	if err != nil {
		return err
	}
	return b.Verify(context.Background(), nil)
}

func version(v string, goMods []string) (string, error) {
	module, ok := strings.CutPrefix(v, "@")
	if !ok {
		return v, nil
	}
	for _, file := range goMods {
		if found, err := gomod.Version(file, module); err == nil {
			return found, nil
		}
	}
	return "", fmt.Errorf("no go.mod requires %s", module)
}
