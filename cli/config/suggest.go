// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"

	"github.com/constellation-os/constellation/measurements/printable"
)

// maxKey is as much of an unknown field's name as is shown, in bytes.
const maxKey = 40

func printableKey(s string) string { return printable.Text(s, maxKey) }

// suggest is "; is … meant?" if one of the words is much like what was written.
func suggest(written string, words []string) string {
	best, distance := "", 1+len(written)/3
	for _, w := range words {
		if d := edits(strings.ToLower(written), strings.ToLower(w)); d <= distance && d < len(w) {
			best, distance = w, d-1
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; is %q meant?", best)
}

// edits is the Levenshtein distance of two words, as far as their beginnings go.
func edits(a, b string) int {
	a, b = a[:min(len(a), maxKey)], b[:min(len(b), maxKey)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
