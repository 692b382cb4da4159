// SPDX-License-Identifier: Apache-2.0

package gofmt

import "testing"

func TestFirstDifference(t *testing.T) {
	for name, test := range map[string]struct {
		source string
		want   int
	}{
		"formatted":              {"package p\n\nvar x = 1\n", 0},
		"spaces around operator": {"package p\n\nvar x=1\n", 3},
		"indentation":            {"package p\n\nfunc f() {\n  f()\n}\n", 4},
		"blank lines at the end": {"package p\n\n\n", 2},
		"no newline at the end":  {"package p", 1},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := firstDifference([]byte(test.source))
			if err != nil {
				t.Fatal(err)
			}
			if got != test.want {
				t.Errorf("first difference in line %d, want %d", got, test.want)
			}
		})
	}
}

func TestFirstDifferenceBrokenSource(t *testing.T) {
	if _, err := firstDifference([]byte("package p\nfunc {")); err == nil {
		t.Error("source that does not parse was accepted")
	}
}
