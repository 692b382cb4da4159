// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/cli/command"
)

// Command makes "config" with its subcommands.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Make and check the configuration of a cluster",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(generateCommand(), checkCommand())
	return cmd
}

// acceptedFor is how long images are accepted by a new configuration that does not say.
const acceptedFor = 365 * 24 * time.Hour

func generateCommand() *cobra.Command {
	c := Config{Kubernetes: Kubernetes{PodNetwork: DefaultPodNetwork, ServiceNetwork: DefaultServiceNetwork}}
	cmd := &cobra.Command{
		Use:   "generate [FILE]",
		Short: "Write a configuration to begin with",
		Long: `generate writes a configuration, with comments, to FILE (` + DefaultFile + ` by default).
FILE must not exist; - is standard output. Paths are written as they are given, and are
read relative to FILE's folder.

Which Kubernetes it is follows from the component set.`,
		Example: `  constellation config generate --endpoint api.example.org:6443 --components bundle/components.json \
      --source https://registry.example.org --measurements measurements.json --authority ca.pem`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := fileOf(args)
			c.folder = filepath.Dir(command.FromCaller(path))
			set, _, err := readComponents(c.Path(c.Kubernetes.Components))
			if err != nil {
				return fmt.Errorf("--components: %w", err)
			}
			c.Kubernetes.Version = set.Kubernetes
			data, err := c.Marshal()
			if err != nil {
				return err
			}
			if _, err := Parse(data, c.folder); err != nil {
				return fmt.Errorf("such a configuration would be wrong:\n%w", err)
			}
			return command.WriteNew(cmd, path, data, 0o644)
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.Name, "name", "constellation", "name of the cluster")
	f.StringVar(&c.Provider, "provider", "static", "what surrounds the machines: qemu or static")
	f.StringVar(&c.Endpoint, "endpoint", "", "HOST:PORT at which nodes and users reach the API servers")
	f.StringArrayVar(&c.APIServerNames, "api-server-name", nil, "further name or address of the API servers; can be repeated")
	f.StringVar(&c.Kubernetes.Components, "components", "components.json", "file of the component set")
	f.StringArrayVar(&c.Kubernetes.Sources, "source", nil, "base URL of a registry that has the components; can be repeated")
	f.StringVar(&c.Kubernetes.PodNetwork, "pod-network", DefaultPodNetwork, "network of pods")
	f.StringVar(&c.Kubernetes.ServiceNetwork, "service-network", DefaultServiceNetwork, "network of services")
	f.StringArrayVar(&c.Attestation.Measurements, "measurements", []string{"measurements.json"}, "measurements of an accepted image; can be repeated")
	f.StringVar(&c.Attestation.AcceptedUntil, "accepted-until", time.Now().Add(acceptedFor).UTC().Format(time.DateOnly), "last day, or moment, at which the images are accepted")
	f.Lookup("accepted-until").DefValue = "in a year"
	f.StringArrayVar(&c.Attestation.Authorities, "authority", nil, "certificates in PEM of an authority for TPMs; can be repeated")
	f.StringVar(&c.Attestation.Inventory, "inventory", "", "text file that lists TPMs: name, role, identity")
	f.StringArrayVar(&c.Attestation.FirstCome, "first-come", nil, "role that machines may have which the inventory does not list: worker")
	_ = cmd.MarkFlagRequired("endpoint")
	_ = cmd.MarkFlagRequired("source")
	cmd.MarkFlagsOneRequired("authority", "inventory")
	return cmd
}

// fileOf is the file that the arguments name, or the default one.
func fileOf(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return DefaultFile
}

// checked is the result of check as JSON.
type checked struct {
	File     string    `json:"file"`
	Sound    bool      `json:"sound"`
	Problems []Problem `json:"problems"`
}

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Name all that is wrong with a configuration",
		Long: `check reads FILE (` + DefaultFile + ` by default) strictly, and the files that it names, and
says all that is wrong at once, with lines.

Exit codes: 0 nothing is wrong, 1 something is, 2 the file cannot be read.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := fileOf(args)
			data, err := command.ReadInput(cmd, path, MaxSize)
			if err != nil {
				return err
			}
			out := checked{File: path, Problems: review(data, filepath.Dir(command.FromCaller(path)))}
			out.Sound = len(out.Problems) == 0
			format, err := command.Output(cmd)
			if err != nil {
				return err
			}
			if format == command.JSON {
				err = command.WriteJSON(cmd.OutOrStdout(), out)
			} else {
				err = out.write(cmd)
			}
			if err == nil && !out.Sound {
				err = command.ErrMismatch
			}
			return err
		},
	}
}

func (c checked) write(cmd *cobra.Command) error {
	for _, p := range c.Problems {
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", c.File, p); err != nil {
			return err
		}
	}
	verdict := "the configuration is sound"
	if !c.Sound {
		verdict = "the configuration is not used as it is: mend the above"
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), verdict)
	return err
}

// review says all that is wrong with a file and with those that it names.
func review(data []byte, folder string) []Problem {
	c, err := Parse(data, folder)
	if err != nil {
		var e *Error
		if errors.As(err, &e) {
			return e.Problems
		}
		return []Problem{{Text: err.Error()}}
	}
	problems := []Problem{}
	for _, p := range c.checkFiles() {
		p.Line = c.lines.line(p.Path)
		problems = append(problems, p)
	}
	return problems
}
