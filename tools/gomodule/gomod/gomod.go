// SPDX-License-Identifier: Apache-2.0

// Package gomod finds versions in go.mod files, so that they are written down once.
package gomod

import (
	"fmt"
	"os"
	"strings"
)

// Version is the version of a module that a go.mod file requires.
func Version(file, module string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(fields) >= 2 && fields[0] == module && strings.HasPrefix(fields[1], "v") {
			return fields[1], nil
		}
	}
	return "", fmt.Errorf("%s requires no %s", file, module)
}
