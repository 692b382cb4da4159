// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/constellation-os/constellation/cli/command"
)

var update = flag.Bool("update", false, "write docs/cli.md")

const referencePage = "../../docs/cli.md"

// TestReference: docs/cli.md is what the commands say of themselves. Renew it with
// go test ./cli/constellation -run TestReference -update.
func TestReference(t *testing.T) {
	for _, name := range []string{"CONSTELLATION_IMAGE", "CONSTELLATION_FIRMWARE", "CONSTELLATION_BUNDLE"} {
		t.Setenv(name, "") // flags take their defaults from them
	}
	want := reference(root())
	if *update {
		if err := os.WriteFile(referencePage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(referencePage)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("the page is not what the commands say (-commands +page):\n%s", diff)
	}
}

// reference is the page.
func reference(root *cobra.Command) string {
	var out strings.Builder
	fmt.Fprintf(&out, `# The command line

This page is made from the commands themselves; `+"`constellation COMMAND --help`"+` says the same. Results go to standard output,
everything else to standard error.

| exit code | |
|---|---|
| %d | done, or what was compared matches |
| %d | a comparison was made, and differs: a node was refused, a file is not sound |
| %d | nothing was decided: wrong usage, broken input, a failing machine, an interrupt |

With `+"`--output json`"+` a result is one JSON document; of commands that show progress (`+"`init`, `recover`, `local up`"+`) it is a stream of objects, one a
line, with the fields `+"`seconds`, `state`, `step`, `text`, `done`, `total`"+` and, in the last one of a command that succeeded, `+"`result`"+`.
Completions for a shell: `+"`constellation completion bash`, `zsh`, `fish` or `powershell`"+`.
`, command.ExitOK, command.ExitMismatch, command.ExitError)
	describe(&out, root)
	return out.String()
}

func describe(out *strings.Builder, cmd *cobra.Command) {
	if cmd.Hidden || cmd.Name() == "help" || cmd.Name() == "completion" {
		return
	}
	if cmd.HasParent() {
		cmd.InitDefaultHelpFlag()
		fmt.Fprintf(out, "\n## %s\n\n%s.\n\n", cmd.CommandPath(), cmd.Short)
		if cmd.Long != "" {
			block(out, cmd.Long)
		}
		if !cmd.HasAvailableSubCommands() {
			block(out, strings.TrimSuffix(cmd.UseLine(), " [flags]"))
		}
		if cmd.Example != "" {
			block(out, cmd.Example)
		}
		flags(out, cmd)
	}
	for _, sub := range cmd.Commands() {
		describe(out, sub)
	}
}

func block(out *strings.Builder, text string) {
	fmt.Fprintf(out, "```\n%s\n```\n", strings.Trim(text, "\n"))
}

// flags is a table of the command's own flags.
func flags(out *strings.Builder, cmd *cobra.Command) {
	head := "\n| flag | | default |\n|---|---|---|\n"
	add := func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		preset := f.DefValue
		if preset == "[]" {
			preset = ""
		}
		fmt.Fprintf(out, "%s| `--%s` | %s | %s |\n", head, f.Name, strings.ReplaceAll(f.Usage, "|", `\|`), preset)
		head = ""
	}
	cmd.NonInheritedFlags().VisitAll(add)
}
