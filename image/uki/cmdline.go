// SPDX-License-Identifier: Apache-2.0

package uki

import "strings"

// CommandLine joins the words of a file that has any number of them on a line and comments that # begins.
func CommandLine(file string) string {
	var words []string
	for line := range strings.Lines(file) {
		line, _, _ = strings.Cut(line, "#")
		words = append(words, strings.Fields(line)...)
	}
	return strings.Join(words, " ")
}
