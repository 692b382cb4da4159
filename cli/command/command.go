// SPDX-License-Identifier: Apache-2.0

// Package command is the frame of the constellation command: the root with its
// global flags, the two output forms, and the exit codes.
//
// Exit codes are a contract with scripts: 0 means done, or what was compared
// matches; 1 means that a comparison was made and differs; 2 means that nothing
// was decided, because of wrong usage, broken input or a failing machine.
package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	ExitOK       = 0
	ExitMismatch = 1
	ExitError    = 2
)

// ErrMismatch is returned by commands that compared and found a difference. They
// have already printed what differs.
var ErrMismatch = errors.New("mismatch")

// Version is set by the linker in release builds.
var Version = "development"

// Format is how a command writes its result.
type Format string

// Formats of the global flag --output.
const (
	Text Format = "text"
	JSON Format = "json"
)

const outputFlag = "output"

// New makes the root command.
func New(subcommands ...*cobra.Command) *cobra.Command {
	root := &cobra.Command{
		Use:   "constellation",
		Short: "Confidential Kubernetes on machines that nobody has to trust",
		Long: `constellation builds trust in machines by what they measured while booting.

Results go to standard output, everything else to standard error.
Exit codes: 0 done or match, 1 compared and different, 2 wrong usage or broken input.`,
		Example: `  # What will a TPM report once this image has booted?
  constellation image predict disk.raw

  # Does what a machine reported agree? Exit code 1 if not.
  constellation image compare measurements.json observed.json

  # Whom does this policy let in, and is anything wrong with it?
  constellation policy explain policy.json
  constellation policy check policy.json

  # Has a machine far away proven what it booted? Exit code 1 if not.
  constellation evidence verify evidence.json --policy policy.json --nonce $nonce --secret secret.json --response response

  # Have the nodes of a running cluster proven what they run? Exit code 1 if not all have.
  constellation verify --policy policy.json --cluster-id $id --kubeconfig admin.conf

  # Make the master secret of a new cluster.
  constellation keys generate`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().StringP(outputFlag, "o", string(Text), "form of the result: text for people, json for programs")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		_, err := Output(cmd)
		return err
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w\nrun '%s --help' for usage", err, cmd.CommandPath())
	})
	root.AddCommand(versionCommand())
	root.AddCommand(subcommands...)
	return root
}

// Output is the form that the user asked for.
func Output(cmd *cobra.Command) (Format, error) {
	s, err := cmd.Flags().GetString(outputFlag)
	if err != nil {
		return "", err
	}
	switch f := Format(s); f {
	case Text, JSON:
		return f, nil
	}
	return "", fmt.Errorf("--%s %q: want text or json", outputFlag, s)
}

// WriteJSON writes v as indented JSON.
func WriteJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// Run executes the root command and returns the exit code.
func Run(ctx context.Context, root *cobra.Command, args []string, stdout, stderr io.Writer) int {
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return ExitOK
	case errors.Is(err, ErrMismatch):
		return ExitMismatch
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(stderr, "constellation: interrupted")
	default:
		fmt.Fprintln(stderr, "constellation:", err)
	}
	return ExitError
}

// version is what the version command prints as JSON.
type version struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := version{Version: Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						v.Revision = s.Value
					}
				}
			}
			if format, err := Output(cmd); err != nil || format == JSON {
				return errors.Join(err, WriteJSON(cmd.OutOrStdout(), v))
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), strings.TrimSpace(strings.Join([]string{"constellation", v.Version, v.Revision, v.Go, v.Platform}, " ")))
			return err
		},
	}
}
