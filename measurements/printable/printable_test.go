// SPDX-License-Identifier: Apache-2.0

package printable_test

import (
	"strings"
	"testing"

	"github.com/constellation-os/constellation/measurements/printable"
)

func TestText(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"plain":               {"a b~", "a b~"},
		"control sequence":    {"\x1b[31mred\r\n\x7f", "?[31mred???"},
		"C1 control":          {"\u009b2J", "?2J"},
		"direction override":  {"\u202eabc", "?abc"},
		"other letters":       {"ä", "?"},
		"not UTF-8":           {"\xff\x9b", "??"},
		"zero bytes":          {"a\x00b\x00", "ab"},
		"at the limit":        {strings.Repeat("x", 20), strings.Repeat("x", 20)},
		"over the limit":      {strings.Repeat("x", 21), strings.Repeat("x", 20)},
		"far over the limit":  {strings.Repeat("ä", 1<<20), strings.Repeat("?", 20)},
		"zeros far and wide":  {strings.Repeat("\x00", 1<<20) + "x", ""},
		"cut inside a letter": {strings.Repeat("x", 79) + "ä", strings.Repeat("x", 20)},
	} {
		got := printable.Text(test.text, 20)
		if got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
		if !printable.Is(got, 20) {
			t.Errorf("%s: the result is not printable: %q", name, got)
		}
		if same := test.text == got; same != printable.Is(test.text, 20) {
			t.Errorf("%s: printable as it is: %v", name, !same)
		}
		if b := printable.Text([]byte(test.text), 20); b != got {
			t.Errorf("%s: bytes give %q", name, b)
		}
	}
}
