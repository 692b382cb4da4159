// SPDX-License-Identifier: Apache-2.0

// Package docs_test holds the pages to what they say of the tests.
package docs_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// tree is the module's tests: the content of each file by its path from the root.
type tree map[string]string

// readTree finds the module by a file that Bazel puts beside this folder, too: as a link to where it really is.
func readTree(t *testing.T) tree {
	t.Helper()
	module, err := filepath.EvalSymlinks(filepath.Join("..", "MODULE.bazel"))
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Dir(module)
	all := tree{}
	if err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && path != root && strings.HasPrefix(entry.Name(), ".") {
			return fs.SkipDir
		}
		if !entry.Type().IsRegular() || !strings.HasSuffix(path, "_test.go") {
			return nil // Bazel's own folders are links
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		all[filepath.ToSlash(name)] = string(content)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(all) < 100 {
		t.Fatalf("only %d files with tests below %s", len(all), root)
	}
	return all
}

// missing says what is wrong with the claim that a file has a test, or that test a part; nothing if it is right.
func (all tree) missing(file, test, part string) string {
	source, ok := all[file]
	switch {
	case !ok:
		return fmt.Sprintf("there is no %s", file)
	case !strings.Contains(source, "\nfunc "+test+"("):
		return fmt.Sprintf("%s has no test %s", file, test)
	case part != "" && !strings.Contains(source, `"`+part+`"`):
		return fmt.Sprintf("%s of %s has no part %q", test, file, part)
	}
	return ""
}

// threatRow is one row of the table in threat-model.md: threat, attempt, what protects, and the test or that there is none.
var threatRow = regexp.MustCompile("^\\| (V[0-9]+) \\| [^|]+ \\| [^|]+ \\| (?:`[^`]+_test\\.go` `[^`]+`|no test) \\|$")

// TestThreatModel: the page has each threat, and says of each attempt which test there is, or that there is none.
func TestThreatModel(t *testing.T) {
	page, err := os.ReadFile("threat-model.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]int{}
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, "| V") {
			continue
		}
		row := threatRow.FindStringSubmatch(strings.TrimSpace(line))
		if row == nil {
			t.Errorf("not a row of the right form: %s", line)
			continue
		}
		rows[row[1]]++
	}
	for number := 1; number <= 22; number++ {
		if rows[fmt.Sprintf("V%d", number)] == 0 {
			t.Errorf("the page says nothing of V%d", number)
		}
	}
}

// testPlace names a test and the file that it is in.
var testPlace = regexp.MustCompile("`([\\w/]+_test\\.go)` `(\\w+)(?:/([^`]+))?`")

var testName = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z0-9]\\w*)[`/]")

// TestPagesNameTestsThatExist: whatever page names a test, there is one of that name, and where the page says.
func TestPagesNameTestsThatExist(t *testing.T) {
	all := readTree(t)
	var sources strings.Builder
	for _, source := range all {
		sources.WriteString(source)
	}
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(pages, "state-disk.md") || !slices.Contains(pages, "join.md") {
		t.Fatalf("pages are missing: %v", pages)
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range testName.FindAllStringSubmatch(string(text), -1) {
			if !strings.Contains(sources.String(), "\nfunc "+name[1]+"(") {
				t.Errorf("%s names %s, which nobody wrote", page, name[1])
			}
		}
		for _, place := range testPlace.FindAllStringSubmatch(string(text), -1) {
			if wrong := all.missing(place[1], place[2], place[3]); wrong != "" {
				t.Errorf("%s: %s", page, wrong)
			}
		}
	}
}
