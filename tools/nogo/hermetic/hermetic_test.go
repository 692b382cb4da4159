// SPDX-License-Identifier: Apache-2.0

package hermetic

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/go/analysis"
)

// library stands in for the standard library: the few declarations that the cases use.
var library = map[string]string{
	"time":      `package time; type Time struct{}; func Now() Time { return Time{} }; func Unix(a, b int64) Time { return Time{} }; func (Time) Local() Time { return Time{} }`,
	"os":        `package os; func Getenv(string) string { return "" }; func Hostname() (string, error) { return "", nil }; func ReadFile(string) ([]byte, error) { return nil, nil }`,
	"math/rand": `package rand; func Int() int { return 0 }`,
}

type fakeImporter struct{}

func (fakeImporter) Import(path string) (*types.Package, error) {
	source, ok := library[path]
	if !ok {
		return nil, fmt.Errorf("no package %s", path)
	}
	pkg, _, _, err := check(path, path+".go", source)
	return pkg, err
}

func check(path, filename, source string) (*types.Package, *token.FileSet, *types.Info, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, filename, source, 0)
	if err != nil {
		return nil, nil, nil, err
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	config := types.Config{Importer: fakeImporter{}}
	pkg, err := config.Check(path, fset, []*ast.File{file}, info)
	return pkg, fset, info, err
}

func TestAnalyzer(t *testing.T) {
	const disk = imagePackages + "/disk"
	for name, test := range map[string]struct {
		path, filename, source string
		want                   []string
	}{
		"clock": {
			path:   disk,
			source: `package disk; import "time"; var t = time.Now()`,
			want:   []string{"time.Now reads the clock or the time zone: the image may depend on its inputs only"},
		},
		"clock under another name": {
			path:   disk,
			source: `package disk; import clock "time"; var now = clock.Now`,
			want:   []string{"time.Now reads the clock or the time zone: the image may depend on its inputs only"},
		},
		"environment": {
			path:   disk,
			source: `package disk; import . "os"; var x = Getenv("X")`,
			want:   []string{"os.Getenv reads the environment: the image may depend on its inputs only"},
		},
		"host name": {
			path:   imagePackages,
			source: `package image; import "os"; var x, _ = os.Hostname()`,
			want:   []string{"os.Hostname tells of the machine: the image may depend on its inputs only"},
		},
		"randomness": {
			path:   disk,
			source: `package disk; import "math/rand"; var x = rand.Int()`,
			want:   []string{"math/rand.Int is random: the image may depend on its inputs only"},
		},
		"given time, files and methods are fine": {
			path:   disk,
			source: `package disk; import ("os"; "time"); var x = time.Unix(0, 0).Local(); var y, _ = os.ReadFile("x")`,
		},
		"own function of a forbidden name": {
			path:   disk,
			source: `package disk; func Now() int { return 0 }; var x = Now()`,
		},
		"test": {
			path:     disk,
			filename: "disk_test.go",
			source:   `package disk; import "time"; var t = time.Now()`,
		},
		"exempt package": {
			path:   imagePackages + "/packages/update",
			source: `package update; import "time"; var t = time.Now()`,
		},
		"other part of the house": {
			path:   "github.com/constellation-os/constellation/imagery",
			source: `package imagery; import "time"; var t = time.Now()`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			filename := test.filename
			if filename == "" {
				filename = "code.go"
			}
			pkg, fset, info, err := check(test.path, filename, test.source)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			pass := &analysis.Pass{
				Analyzer:  Analyzer,
				Fset:      fset,
				Pkg:       pkg,
				TypesInfo: info,
				Report:    func(d analysis.Diagnostic) { got = append(got, d.Message) },
			}
			if _, err := Analyzer.Run(pass); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("reports (-want +got):\n%s", diff)
			}
		})
	}
}
