// SPDX-License-Identifier: Apache-2.0

// Package keys is the command "constellation keys": make, look at and rotate a
// cluster's master secret, and try the user's own KMS.
package keys

import (
	"bytes"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/keys"
)

// DefaultFile is where a master secret is made and looked for.
const DefaultFile = "constellation-master-secret.json"

// Command makes "keys" with its subcommands.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Make and rotate a cluster's master secret, or try your own KMS",
		Long: `A cluster's keys come from one of two places: a master secret, which the cluster
holds in memory and you keep in a file (cluster-held mode), or your own KMS or HSM,
which never gives its key away (user-managed mode).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(generateCommand(), inspectCommand(), rotateCommand(), retireCommand(), kmsCommand(), initSecretCommand())
	return cmd
}

// summary is what may be known of a master secret.
type summary struct {
	File      string         `json:"file"`
	Format    string         `json:"format"`
	ClusterID string         `json:"cluster_id"`
	Salt      string         `json:"salt"`
	Versions  []keys.Version `json:"versions"`
	Newest    keys.Version   `json:"newest"`
}

func summarize(path string, r *keys.Keyring) (*summary, error) {
	id, err := r.ClusterID()
	if err != nil {
		return nil, err
	}
	versions := r.Versions()
	return &summary{
		File: path, Format: keys.FileFormat, ClusterID: id.String(), Salt: fmt.Sprintf("%x", r.Salt()),
		Versions: versions, Newest: versions[len(versions)-1],
	}, nil
}

// write prints the summary, for people with a first line and advice.
func (s *summary) write(cmd *cobra.Command, first, advice string) error {
	format, err := command.Output(cmd)
	if err != nil {
		return err
	}
	if format == command.JSON {
		return command.WriteJSON(cmd.OutOrStdout(), s)
	}
	var text bytes.Buffer
	if first != "" {
		fmt.Fprintln(&text, first)
	}
	s.writeText(&text)
	if advice != "" {
		fmt.Fprintln(&text, advice)
	}
	_, err = text.WriteTo(cmd.OutOrStdout())
	return err
}

func (s *summary) writeText(w io.Writer) {
	fmt.Fprintf(w, "file        %s\n", s.File)
	fmt.Fprintf(w, "cluster ID  %s\n", s.ClusterID)
	fmt.Fprintf(w, "salt        %s\n", s.Salt)
	fmt.Fprintf(w, "versions    %s; new keys come from version %d\n", list(s.Versions), s.Newest)
}

func list(versions []keys.Version) (out string) {
	for i, v := range versions {
		if i > 0 {
			out += ", "
		}
		out += strconv.FormatUint(uint64(v), 10)
	}
	return out
}

// fileOf is the file that the arguments name, or the default one, as it is shown
// and as it is found.
func fileOf(args []string) (shown, path string) {
	shown = DefaultFile
	if len(args) > 0 {
		shown = args[0]
	}
	return shown, command.FromCaller(shown)
}
