// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"strconv"
	"text/template"
)

// text is a new file. Values are quoted, so that nothing in them is YAML.
var text = template.Must(template.New("").Funcs(template.FuncMap{"q": strconv.Quote}).Parse(`# A Constellation cluster. Check this file with: constellation config check
# Paths are relative to its folder. Nothing in it is secret.
format: {{q .Format}}

# Name of the cluster: 1 to 63 of a-z, 0-9 and -.
name: {{q .Name}}

# What surrounds the machines: qemu (a local cluster) or static (your own hosts, an inventory file).
provider: {{q .Provider}}

# HOST:PORT at which nodes and users reach the API servers, and what else their certificate is for.
endpoint: {{q .Endpoint}}
apiServerNames:{{range .APIServerNames}}
  - {{q .}}{{else}} []{{end}}

kubernetes:
  version: {{q .Kubernetes.Version}}
  # The component set: components.json of a bundle.
  components: {{q .Kubernetes.Components}}
  # Registries that have the components, the best first. None of them is trusted.
  sources:{{range .Kubernetes.Sources}}
    - {{q .}}{{else}} []{{end}}
  podNetwork: {{q .Kubernetes.PodNetwork}}
  serviceNetwork: {{q .Kubernetes.ServiceNetwork}}

# What a machine must prove before anything is sent to it.
attestation:
  # Measurements of the images that it may have booted, and until when they are accepted.
  measurements:{{range .Attestation.Measurements}}
    - {{q .}}{{else}} []{{end}}
  acceptedUntil: {{q .Attestation.AcceptedUntil}}
  # Certificates (PEM) of those who certify its TPM. Or name an inventory of TPMs, one a line: name, role, identity.
  authorities:{{range .Attestation.Authorities}}
    - {{q .}}{{else}} []{{end}}{{with .Attestation.Inventory}}
  inventory: {{q .}}{{end}}
  # Roles that machines may have which the inventory does not list, under a name that is free: worker, or none.
  firstCome:{{range .Attestation.FirstCome}}
    - {{q .}}{{else}} []{{end}}
`))

// Marshal makes the file, with comments.
func (c *Config) Marshal() ([]byte, error) {
	c.Format = Format
	var out bytes.Buffer
	if err := text.Execute(&out, c); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
