// SPDX-License-Identifier: Apache-2.0

// Command constellation is the administrator's tool. It only wires.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/cli/bundle"
	"github.com/constellation-os/constellation/cli/cluster"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/cli/config"
	"github.com/constellation-os/constellation/cli/evidence"
	"github.com/constellation-os/constellation/cli/image"
	"github.com/constellation-os/constellation/cli/keys"
	"github.com/constellation-os/constellation/cli/local"
	"github.com/constellation-os/constellation/cli/measurements"
	"github.com/constellation-os/constellation/cli/policy"
	"github.com/constellation-os/constellation/cli/recovery"
	"github.com/constellation-os/constellation/cli/verify"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the first signal asks, the second ends
	code := command.Run(ctx, root(), os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// root is the command with all that it has.
func root() *cobra.Command {
	policies := policy.Command()
	policies.AddCommand(verify.ApplyCommand()) // it asks the nodes
	commands := []*cobra.Command{
		bundle.Command(), config.Command(), evidence.Command(), image.Command(), keys.Command(), local.Command(local.Options{}),
		measurements.Command(), policies, recovery.Command(recovery.Options{}), verify.Command(),
	}
	return command.New(append(commands, cluster.Commands()...)...)
}
