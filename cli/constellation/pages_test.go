// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestPages: every command that a page shows is one, with flags that it has and as many
// arguments as it wants.
func TestPages(t *testing.T) {
	for page, least := range map[string]int{"getting-started.md": 10, "recover.md": 4} {
		t.Run(page, func(t *testing.T) { checkPage(t, page, least) })
	}
}

func checkPage(t *testing.T, name string, least int) {
	page, err := os.ReadFile("../../docs/" + name)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		text := strings.ReplaceAll(block[1], "\\\n", " ")
		for line := range strings.Lines(text) {
			line, _, _ = strings.Cut(line, "#")
			words := strings.Fields(line)
			switch {
			case len(words) > 4 && strings.Join(words[:3], " ") == "tools/bazel run //cli/constellation:local":
				words = append([]string{"local"}, words[4:]...)
			case len(words) > 1 && words[0] == "constellation":
				words = words[1:]
			default:
				continue
			}
			found++
			cmd, rest, err := root().Find(words)
			if err != nil || !cmd.Runnable() || cmd.HasSubCommands() {
				t.Errorf("%q: no such command: %v", line, err)
				continue
			}
			if err := cmd.ParseFlags(rest); err != nil {
				t.Errorf("%q: %v", line, err)
				continue
			}
			if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
				t.Errorf("%q: %v", line, err)
			}
			if err := cmd.ValidateRequiredFlags(); err != nil {
				t.Errorf("%q: %v", line, err)
			}
		}
	}
	if found < least {
		t.Errorf("only %d commands were found: this test looks for the wrong thing", found)
	}
}
