// SPDX-License-Identifier: Apache-2.0

package command_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/cli/command"
)

func TestReadInput(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BUILD_WORKING_DIRECTORY", dir)
	for name, tc := range map[string]struct {
		path  string
		limit int64
		want  string
		err   string
	}{
		"a file":                {file, 5, "12345", ""},
		"below the caller":      {"file", 5, "12345", ""},
		"standard input":        {"-", 5, "abc", ""},
		"above the limit":       {file, 4, "", "file: more than 4 bytes"},
		"input above its limit": {"-", 2, "", "-: more than 2 bytes"},
		"empty":                 {"empty", 5, "", "the file is empty"},
		"not there":             {"no", 5, "", "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := &cobra.Command{}
			cmd.SetContext(t.Context())
			cmd.SetIn(strings.NewReader("abc"))
			got, err := command.ReadInput(cmd, tc.path, tc.limit)
			if string(got) != tc.want || (err == nil) != (tc.err == "") || (err != nil && !strings.Contains(err.Error(), tc.err)) {
				t.Errorf("got %q, %v; want %q, %q", got, err, tc.want, tc.err)
			}
		})
	}
}

func TestWriteNew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	cmd := &cobra.Command{}
	var out bytes.Buffer
	cmd.SetOut(&out)
	if err := command.WriteNew(cmd, path, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	err := command.WriteNew(cmd, path, []byte("other"), 0o600)
	if err == nil || !strings.Contains(err.Error(), "exists and is not overwritten") {
		t.Errorf("got %v", err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "secret" {
		t.Errorf("overwritten: %q, %v", data, err)
	}
	if err := command.WriteNew(cmd, "-", []byte("shown"), 0o600); err != nil || out.String() != "shown" {
		t.Errorf("standard output got %q, %v", out.String(), err)
	}
}
