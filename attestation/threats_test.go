// SPDX-License-Identifier: Apache-2.0

package attestation_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/attestation"
)

// threatRow is one row of the table in docs/attestation.md.
var threatRow = regexp.MustCompile("(?m)^\\| (V[0-9]+) \\| [^|]+ \\| ([^|]*)\\| `[^`]+_test\\.go` `[^`]+` \\|$")

// TestEveryThreatHasItsTests: the table names every threat that this room answers to,
// a test for each attempt, and only reasons that there are. That the tests exist is
// checked by package docs, of all pages.
func TestEveryThreatHasItsTests(t *testing.T) {
	page, err := os.ReadFile("../docs/attestation.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Threats and their tests\n")
	section, _, _ = strings.Cut(section, "\n## ")
	rows := threatRow.FindAllStringSubmatch(section, -1)
	if lines := strings.Count(section, "\n| V"); len(rows) != lines || lines == 0 {
		t.Errorf("%d of the table's %d rows are of the right form", len(rows), lines)
	}
	var reasons []string
	for r := range attestation.Reason(64) {
		reasons = append(reasons, r.String())
	}
	var threats []string
	for _, row := range rows {
		threats = append(threats, row[1])
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[2], -1) {
			if !slices.Contains(reasons, m[1]) {
				t.Errorf("%s: there is no reason %q", row[1], m[1])
			}
		}
	}
	want := []string{"V3", "V4", "V5", "V6", "V7", "V8", "V9", "V12", "V13", "V19", "V21", "V22"}
	if diff := cmp.Diff(want, slices.Compact(threats)); diff != "" {
		t.Errorf("threats in the table: %s", diff)
	}
}
