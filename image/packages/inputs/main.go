// SPDX-License-Identifier: Apache-2.0

// Inputs lists everything that the image is built from and that does not come
// from this repository, one line each with its hash:
//
//	tools/bazel run //image/packages:inputs
//
//	debian   NAME VERSION sha256:HEX    locked packages
//	go       MODULE VERSION h1:BASE64   modules of every go.sum in the tree
//	sdk      go VERSION sha256:HEX      the Go toolchain that compiles
//	bazel    MODULE VERSION -           rules, whose hashes the registry of modules holds
//
// Two builds whose lists and commits are equal had the same inputs. The list is
// what may be used: go.sum also names modules that only tests need. The last
// line is the SHA-256 of those before it.
package main

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/constellation-os/constellation/image/packages/lock"
)

func main() {
	top := os.Getenv("BUILD_WORKSPACE_DIRECTORY")
	if top == "" {
		top = "."
	}
	text, err := List(top)
	if err != nil {
		fmt.Fprintf(os.Stderr, "inputs: %v\n", err)
		os.Exit(1)
	}
	fmt.Printf("%ssha256:%x\n", text, sha256.Sum256([]byte(text)))
}

// List gives the lines for the source tree at top.
func List(top string) (string, error) {
	lines, err := debianLines(filepath.Join(top, "image", "packages", "lock.json"))
	if err != nil {
		return "", err
	}
	pins, err := bazelLines(filepath.Join(top, "MODULE.bazel"))
	if err != nil {
		return "", err
	}
	lines = append(lines, pins...)
	err = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() && path != top && (strings.HasPrefix(name, ".") || name == "testdata") {
			return filepath.SkipDir
		}
		if name != "go.sum" || entry.IsDir() {
			return nil
		}
		sums, err := goLines(path)
		lines = append(lines, sums...)
		return err
	})
	if err != nil {
		return "", err
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), ""), nil
}

func debianLines(path string) ([]string, error) {
	l, err := lock.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, p := range l.Packages {
		lines = append(lines, fmt.Sprintf("debian %s %s sha256:%s\n", p.Name, p.Version, p.SHA256))
	}
	return lines, nil
}

// goLines reads the hashes of modules, not those of their go.mod files alone.
func goLines(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var lines []string
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		if len(fields) != 3 {
			return nil, fmt.Errorf("%s: line %q has not three fields", path, scanner.Text())
		}
		if !strings.HasSuffix(fields[1], "/go.mod") {
			lines = append(lines, fmt.Sprintf("go %s %s %s\n", fields[0], fields[1], fields[2]))
		}
	}
	return lines, scanner.Err()
}

var (
	bazelDep = regexp.MustCompile(`bazel_dep\(\s*name = "([^"]+)",\s*version = "([^"]+)"`)
	goPin    = regexp.MustCompile(`go_toolchain\.pin\(([^)]*)\)`)
	checksum = regexp.MustCompile(`sha256 = "([^"]+)"`)
	version  = regexp.MustCompile(`version = "([^"]+)"`)
)

// bazelLines reads the pins of MODULE.bazel.
func bazelLines(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, match := range bazelDep.FindAllSubmatch(text, -1) {
		lines = append(lines, fmt.Sprintf("bazel %s %s -\n", match[1], match[2]))
	}
	pin := goPin.FindSubmatch(text)
	if pin == nil {
		return nil, errors.New("MODULE.bazel pins no Go toolchain")
	}
	sum, number := checksum.FindSubmatch(pin[1]), version.FindSubmatch(pin[1])
	if sum == nil || number == nil {
		return nil, errors.New("the pin of the Go toolchain in MODULE.bazel has no sha256 or version")
	}
	return append(lines, fmt.Sprintf("sdk go %s sha256:%s\n", number[1], sum[1])), nil
}
