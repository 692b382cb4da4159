// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/kubernetes/bundle"
	"github.com/constellation-os/constellation/kubernetes/componentset"
)

// result is what the command prints as JSON.
type result struct {
	Verified   bool                     `json:"verified"`
	Digest     string                   `json:"digest,omitempty"`
	Kubernetes string                   `json:"kubernetes,omitempty"`
	Bytes      int64                    `json:"bytes,omitempty"`
	Components []componentset.Component `json:"components,omitempty"`
	Faults     []fault                  `json:"faults,omitempty"`
}

type fault struct {
	Component string `json:"component"`
	Digest    string `json:"digest"`
	Error     string `json:"error"`
}

func verifyCommand() *cobra.Command {
	var digest string
	cmd := &cobra.Command{
		Use:   "verify DIR",
		Short: "Check every byte of a bundle",
		Long: `verify reads all content of the bundle in the folder DIR and checks it against the
component set in it: every image's manifest, configuration and layers, and every
program in them.

That the set is the one that somebody meant is seen by its digest alone: compare it,
or have it compared with --digest.

Exit codes: 0 the bundle is whole, 1 it is not, or is another set, 2 DIR is no bundle.`,
		Example: `  constellation bundle verify bundle
  constellation bundle verify bundle --digest sha256:0123...`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			format, err := command.Output(cmd)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("digest") && !componentset.IsDigest(digest) {
				return fmt.Errorf("--digest %q: want sha256: and 64 hexadecimal digits", digest)
			}
			r, err := verify(cmd, command.FromCaller(args[0]), digest)
			if err != nil {
				return err
			}
			if format == command.JSON {
				err = command.WriteJSON(cmd.OutOrStdout(), r)
			} else {
				err = writeText(cmd.OutOrStdout(), r)
			}
			if err == nil && !r.Verified {
				err = command.ErrMismatch
			}
			return err
		},
	}
	cmd.Flags().StringVar(&digest, "digest", "", "digest of the component set that it must be")
	return cmd
}

// verify says what is wrong with a bundle. Its error is that there is none.
func verify(cmd *cobra.Command, dir, digest string) (*result, error) {
	b, err := bundle.Open(dir)
	if b == nil {
		faults := faultsOf(err)
		if len(faults) == 0 {
			return nil, err
		}
		return &result{Faults: faults}, nil
	}
	set := b.Set()
	r := &result{Digest: set.Digest(), Kubernetes: set.Kubernetes, Bytes: b.Size(), Components: set.Components}
	if digest != "" && digest != r.Digest {
		r.Faults = []fault{{Component: "component set", Digest: r.Digest, Error: "another set is wanted: " + digest}}
		return r, nil
	}
	// Reading a file system that hangs cannot be interrupted.
	_, err = command.Interruptible(cmd.Context(), 0, func() (struct{}, error) { return struct{}{}, b.Verify(cmd.Context(), nil) })
	if ctxErr := cmd.Context().Err(); ctxErr != nil {
		return nil, ctxErr
	}
	r.Faults = faultsOf(err)
	r.Verified = err == nil
	return r, nil
}

// faultsOf takes an error of package bundle apart.
func faultsOf(err error) []fault {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	var out []fault
	for _, e := range joined.Unwrap() {
		var f *bundle.Fault
		if errors.As(e, &f) {
			out = append(out, fault{Component: f.Component, Digest: f.Digest, Error: f.Err.Error()})
		}
	}
	return out
}

func writeText(w io.Writer, r *result) error {
	if !r.Verified {
		fmt.Fprintln(w, "the bundle is not whole, or not the one that is wanted:")
		for _, f := range r.Faults {
			fmt.Fprintf(w, "  %s %s: %s\n", f.Component, f.Digest, f.Error)
		}
		_, err := fmt.Fprintln(w, "fetch or build it again: no node takes what is wrong")
		return err
	}
	fmt.Fprintf(w, "Kubernetes %s, component set %s\n\n", r.Kubernetes, r.Digest)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NAME\tKIND\tVERSION\tDIGEST")
	for _, c := range r.Components {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", c.Name, c.Kind, c.Version, c.Digest)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\nall of %d bytes are what the set says\n", r.Bytes)
	return err
}
