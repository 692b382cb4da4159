// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"net"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/services/provider"
)

func kubeconfigCommand() *cobra.Command {
	var file, server, name, out string
	cmd := &cobra.Command{
		Use:   "kubeconfig --server HOST:PORT",
		Short: "Write the administrator's kubeconfig for another way to the API server",
		Long: `kubeconfig reads the kubeconfig that init wrote and writes one with the same credentials
for an API server that is reached at another address. The file that is written has mode
0600; one of another cluster is not overwritten. - is standard output.`,
		Example: `  constellation kubeconfig --server 127.0.0.1:7443 --out local-kubeconfig`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			data, err := command.ReadInput(cmd, file, maxKubeconfig)
			if err != nil {
				return err
			}
			c, err := ParseKubeconfig(data)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			if err := checkServer(server); err != nil {
				return fmt.Errorf("--server: %w", err)
			}
			if err := provider.CheckName(name); err != nil {
				return fmt.Errorf("--name: %w", err)
			}
			if out != "-" {
				return c.WriteKubeconfig(command.FromCaller(out), name, server)
			}
			text, err := c.Kubeconfig(name, server)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	cmd.Flags().StringVar(&file, "from", DefaultKubeconfig, "kubeconfig to take the credentials from")
	cmd.Flags().StringVar(&server, "server", "", "HOST:PORT at which the API server is reached")
	cmd.Flags().StringVar(&name, "name", "constellation", "name of the cluster in the kubeconfig")
	cmd.Flags().StringVar(&out, "out", "-", "file to write")
	_ = cmd.MarkFlagRequired("server")
	return cmd
}

// checkServer says whether that is HOST:PORT; this computer's loopback is one too.
func checkServer(server string) error {
	if host, port, err := net.SplitHostPort(server); err == nil && (host == "127.0.0.1" || host == "::1") {
		server = net.JoinHostPort("192.0.2.1", port)
	}
	return provider.CheckEndpoint(server)
}
