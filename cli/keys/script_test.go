// SPDX-License-Identifier: Apache-2.0

package keys_test

import (
	"context"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/keys"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"constellation": func() {
			os.Exit(command.Run(context.Background(), command.New(keys.Command()), os.Args[1:], os.Stdout, os.Stderr))
		},
	})
}

// The scripts in testdata see the command as people do.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"mode": func(ts *testscript.TestScript, neg bool, args []string) {
				info, err := os.Stat(ts.MkAbs(args[1]))
				ts.Check(err)
				if got := info.Mode().Perm().String(); (got == args[0]) == neg {
					ts.Fatalf("mode is %s", got)
				}
			},
		},
	})
}
