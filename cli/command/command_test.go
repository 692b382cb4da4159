// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/cli/command"
)

// run executes the command with one subcommand that returns err.
func run(err error, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	sub := &cobra.Command{Use: "sub", RunE: func(*cobra.Command, []string) error { return err }}
	code = command.Run(context.Background(), command.New(sub), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestExitCodes(t *testing.T) {
	tests := map[string]struct {
		err    error
		args   []string
		want   int
		stderr string
	}{
		"done":              {nil, []string{"sub"}, command.ExitOK, ""},
		"mismatch":          {fmt.Errorf("x: %w", command.ErrMismatch), []string{"sub"}, command.ExitMismatch, ""},
		"failure":           {errors.New("broken disk"), []string{"sub"}, command.ExitError, "constellation: broken disk\n"},
		"interrupted":       {fmt.Errorf("x: %w", context.Canceled), []string{"sub"}, command.ExitError, "constellation: interrupted\n"},
		"unknown command":   {nil, []string{"frobnicate"}, command.ExitError, "unknown command"},
		"unknown flag":      {nil, []string{"sub", "--x"}, command.ExitError, "run 'constellation sub --help' for usage"},
		"unknown format":    {nil, []string{"sub", "-o", "xml"}, command.ExitError, "want text or json"},
		"help":              {nil, []string{"--help"}, command.ExitOK, ""},
		"no arguments":      {nil, nil, command.ExitOK, ""},
		"version":           {nil, []string{"version"}, command.ExitOK, ""},
		"version with args": {nil, []string{"version", "x"}, command.ExitError, "unknown command"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			code, _, stderr := run(test.err, test.args...)
			if code != test.want || !strings.Contains(stderr, test.stderr) || (test.stderr == "" && stderr != "") {
				t.Errorf("exit code %d, want %d; standard error %q, want %q", code, test.want, stderr, test.stderr)
			}
		})
	}
}

func TestVersion(t *testing.T) {
	if _, out, _ := run(nil, "version"); !strings.HasPrefix(out, "constellation development") {
		t.Errorf("text: %q", out)
	}
	if _, out, _ := run(nil, "version", "-o", "json"); !strings.Contains(out, `"version": "development"`) {
		t.Errorf("JSON: %q", out)
	}
}
