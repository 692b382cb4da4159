// SPDX-License-Identifier: Apache-2.0

package keys

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/keys"
)

func generateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "generate [FILE]",
		Short: "Make a master secret for a new cluster",
		Long: `generate makes a random master secret and salt for a new cluster, in FILE
(` + DefaultFile + ` by default) with mode 0600. A file that is there is never
overwritten.

Every key of the cluster comes from this secret, so whoever has the file can decrypt
the cluster's disks, and without it nobody can recover a cluster whose control plane
is gone. Keep a copy where both are safe.`,
		Example: `  constellation keys generate
  constellation keys generate prod/master-secret.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			shown, path := fileOf(args)
			r := keys.Generate()
			defer r.Wipe()
			if err := r.Create(path); err != nil {
				return err
			}
			s, err := summarize(shown, r)
			if err != nil {
				return err
			}
			return s.write(cmd, "master secret made", "Keep a copy of this file in a safe place: without it the cluster cannot be recovered.")
		},
	}
}

func inspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect [FILE]",
		Short: "Show what a master-secret file holds, but no secret",
		Long: `inspect checks a master-secret file (` + DefaultFile + ` by default) and
shows what may be known of it: the cluster ID, the salt and the versions. Nodes of
the cluster have extended PCR 15 with the cluster ID.`,
		Example: `  constellation keys inspect
  constellation keys inspect prod/master-secret.json --output json | jq -r .cluster_id`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			shown, path := fileOf(args)
			r, err := keys.Load(path)
			if err != nil {
				return err
			}
			defer r.Wipe()
			s, err := summarize(shown, r)
			if err != nil {
				return err
			}
			return s.write(cmd, "", "")
		},
	}
}

func rotateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rotate [FILE]",
		Short: "Add a new version to a master secret",
		Long: `rotate adds a random version to a master-secret file (` + DefaultFile + ` by
default). Once the cluster has the file, new keys come from the new version. Keys of
older versions stay the same until those versions are retired. The cluster ID stays.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return change(cmd, args, func(r *keys.Keyring) (string, error) {
				v, err := r.Rotate()
				return fmt.Sprintf("version %d added", v), err
			})
		},
	}
}

func retireCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "retire VERSION [FILE]",
		Short: "Forget an old version of a master secret, for ever",
		Long: `retire deletes an old version from a master-secret file (` + DefaultFile + ` by
default). What is still encrypted with keys of that version is lost: disks and
Secrets must have been given keys of a newer version before. The cluster ID stays.`,
		Example: `  constellation keys retire 1`,
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := strconv.ParseUint(args[0], 10, 32)
			if err != nil {
				return fmt.Errorf("VERSION %q is not a number", args[0])
			}
			return change(cmd, args[1:], func(r *keys.Keyring) (string, error) {
				return fmt.Sprintf("version %d deleted", v), r.Retire(keys.Version(v))
			})
		},
	}
}

// change loads a file, changes its content and writes it back whole.
func change(cmd *cobra.Command, args []string, f func(*keys.Keyring) (string, error)) error {
	shown, path := fileOf(args)
	var first string
	r, err := keys.Update(path, func(r *keys.Keyring) (err error) {
		if first, err = f(r); err != nil {
			err = fmt.Errorf("%s: %w", shown, err)
		}
		return err
	})
	if err != nil {
		return err
	}
	defer r.Wipe()
	s, err := summarize(shown, r)
	if err != nil {
		return err
	}
	return s.write(cmd, first, "Replace your safe copy of this file.")
}
