// SPDX-License-Identifier: Apache-2.0

// Package printable makes text of strangers fit to be shown: what a log, a list of
// the kernel or an image says about itself reaches terminals, and must not write
// control sequences to them, nor fill them.
//
// Only printable ASCII counts: the text that firmware, kernel and images are named
// with is ASCII, and among other characters there are invisible and look-alike ones.
package printable

import "strings"

// Text replaces every character that is not printable ASCII by "?", drops zero
// bytes, and ends after limit bytes.
func Text[S ~string | ~[]byte](s S, limit int) string {
	text := string(s[:min(len(s), 4*limit)])
	text = strings.Map(func(r rune) rune {
		switch {
		case r == 0:
			return -1
		case !is(r):
			return '?'
		}
		return r
	}, text)
	return text[:min(len(text), limit)]
}

// Is says whether text can be shown as it is and has at most limit bytes.
func Is(s string, limit int) bool {
	return len(s) <= limit && !strings.ContainsFunc(s, func(r rune) bool { return !is(r) })
}

func is(r rune) bool { return r >= 0x20 && r <= 0x7e }
