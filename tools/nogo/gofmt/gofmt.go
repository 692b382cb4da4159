// SPDX-License-Identifier: Apache-2.0

// Package gofmt reports Go files that gofmt would change, wherever nogo runs.
//
// It guarantees nothing about files that no build of the package includes.
package gofmt

import (
	"bytes"
	"fmt"
	"go/format"
	"os"

	"golang.org/x/tools/go/analysis"
)

// Analyzer reports each file of a package that is not formatted.
var Analyzer = &analysis.Analyzer{
	Name: "gofmt",
	Doc:  "report files that gofmt would change",
	Run:  run,
}

func run(pass *analysis.Pass) (any, error) {
	for _, file := range pass.Files {
		name := pass.Fset.File(file.FileStart).Name()
		source, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		line, err := firstDifference(source)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if line > 0 {
			position := pass.Fset.File(file.FileStart).LineStart(line)
			pass.Reportf(position, "not formatted from here on: run gofmt -w")
		}
	}
	return nil, nil
}

// firstDifference returns the number of the first line of source, counted from 1, that gofmt would
// change, or 0 if it would change none. A change behind the last line counts as one of the last line.
func firstDifference(source []byte) (int, error) {
	formatted, err := format.Source(source)
	if err != nil {
		return 0, err
	}
	if bytes.Equal(source, formatted) {
		return 0, nil
	}
	common := 0
	for common < len(source) && common < len(formatted) && source[common] == formatted[common] {
		common++
	}
	line := 1 + bytes.Count(source[:common], []byte("\n"))
	return min(line, max(1, bytes.Count(source, []byte("\n")))), nil
}
