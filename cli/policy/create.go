// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/attestation"
	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/measurements"
	accepted "github.com/constellation-os/constellation/measurements/policy"
)

const maxTextSize = 1 << 20 // of certificates and inventories

// createFlags are the command's flags.
type createFlags struct {
	measurements []string
	notAfter     string
	clusterID    string
	authorities  []string
	inventory    string
	firstCome    []string
}

func createCommand() *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use:   "create FILE --measurements FILE --not-after DATE {--authority FILE | --inventory FILE}",
		Short: "Make a policy from images' measurements and trusted TPMs",
		Long: `create writes a policy that accepts the images of the given measurements.json until a
date, on machines whose TPM is trusted by one of two ways, or both:

  --authority   certificates in PEM of those who certify TPMs: every TPM that they
                certified is let in, without a name and a role
  --inventory   a text file with the TPMs one by one, a line each:

                  # name    role           identity
                  node-1    control-plane  8f0c…(64 hexadecimal digits)
                  node-2    worker         51aa…

                The identity is the SHA-256 of the TPM's endorsement key; "constellation
                evidence collect" on the machine prints it.

An image is accepted on machines that belong to no cluster yet. With --cluster-id also
on those of this cluster, which mark themselves in PCR 15.

FILE must not exist; - is standard output.`,
		Example: `  constellation policy create policy.json --measurements measurements.json --not-after 2027-06-30 --authority ca.pem
  constellation policy create policy.json --measurements old.json --measurements new.json \
      --not-after 2027-06-30 --inventory machines.txt --cluster-id 0f3a…`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			draft, err := f.draft(cmd)
			if err != nil {
				return err
			}
			data, err := draft.Marshal()
			if err != nil {
				return err
			}
			return command.WriteNew(cmd, args[0], data, 0o644)
		},
	}
	cmd.Flags().StringArrayVar(&f.measurements, "measurements", nil, "measurements.json of an accepted image; can be repeated")
	cmd.MarkFlagRequired("measurements")
	cmd.Flags().StringVar(&f.notAfter, "not-after", "", "last day, or moment, at which the images are accepted")
	cmd.MarkFlagRequired("not-after")
	cmd.Flags().StringVar(&f.clusterID, "cluster-id", "", "cluster identity (hexadecimal) whose nodes are accepted too")
	cmd.Flags().StringArrayVar(&f.authorities, "authority", nil, "certificates in PEM of an authority for TPMs; can be repeated")
	cmd.Flags().StringVar(&f.inventory, "inventory", "", "text file that lists TPMs: name, role, identity")
	cmd.Flags().StringArrayVar(&f.firstCome, "first-come", nil, "role that machines may have which the inventory does not list: worker")
	cmd.MarkFlagsOneRequired("authority", "inventory")
	return cmd
}

func (f *createFlags) draft(cmd *cobra.Command) (d policy.Draft, err error) {
	notAfter, err := parseDate(f.notAfter)
	if err != nil {
		return d, fmt.Errorf("--not-after: %w", err)
	}
	if notAfter.Before(time.Now()) {
		return d, fmt.Errorf("--not-after %s is past: such a policy lets nobody in", f.notAfter)
	}
	cluster, err := hex.DecodeString(f.clusterID)
	if err != nil {
		return d, fmt.Errorf("--cluster-id: %w", err)
	}
	if n := len(f.firstCome); n > 1 || n == 1 && f.firstCome[0] != policy.Worker {
		return d, fmt.Errorf("--first-come: it can be %s: other roles are for machines of the inventory", policy.Worker)
	}
	d.FirstComeWorkers = len(f.firstCome) > 0
	if n := len(cluster); n != 0 && n != measurements.ClusterIDSize {
		return d, fmt.Errorf("--cluster-id: %d bytes, and a cluster's identity has %d: such a policy lets in none of its nodes", n, measurements.ClusterIDSize)
	}
	for _, path := range f.measurements {
		set, err := readMeasurements(cmd, path, notAfter, cluster)
		if err != nil {
			return d, err
		}
		d.Measurements = append(d.Measurements, *set)
	}
	for _, path := range f.authorities {
		cs, err := readAuthorities(cmd, path)
		if err != nil {
			return d, err
		}
		d.Authorities = append(d.Authorities, cs...)
	}
	if f.inventory != "" {
		d.Inventory, err = readInventory(cmd, f.inventory)
	}
	return d, err
}

func readMeasurements(cmd *cobra.Command, path string, notAfter time.Time, cluster []byte) (*accepted.Set, error) {
	data, err := command.ReadInput(cmd, path, measurements.MaxPredictionSize)
	if err != nil {
		return nil, err
	}
	p, err := measurements.ParsePrediction(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	set, err := accepted.FromPrediction(p, imageName(p.Image), notAfter)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(cluster) > 0 {
		node := p.Initialized(cluster).PCRs
		set.PCRs[measurements.ClusterPCR] = append(set.PCRs[measurements.ClusterPCR], accepted.Value{
			SHA256: node[measurements.SHA256][measurements.ClusterPCR], SHA384: node[measurements.SHA384][measurements.ClusterPCR], NotAfter: notAfter,
		})
	}
	return set, nil
}

// imageName is what people know an image by.
func imageName(i measurements.Image) string {
	return strings.Join(strings.Fields(i.Name+" "+i.Flavour+" "+i.Version), " ")
}

func readAuthorities(cmd *cobra.Command, path string) ([]*x509.Certificate, error) {
	data, err := command.ReadInput(cmd, path, maxTextSize)
	if err != nil {
		return nil, err
	}
	out, err := ParseAuthorities(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return out, nil
}

// ParseAuthorities reads every certificate of a PEM file.
func ParseAuthorities(data []byte) (out []*x509.Certificate, err error) {
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it has a %q beside certificates", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate in PEM")
	}
	return out, nil
}

func readInventory(cmd *cobra.Command, path string) ([]policy.Entry, error) {
	data, err := command.ReadInput(cmd, path, maxTextSize)
	if err != nil {
		return nil, err
	}
	out, err := ParseInventory(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return out, nil
}

// ParseInventory reads lines of name, role and identity.
func ParseInventory(data []byte) (out []policy.Entry, err error) {
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(text)
		if len(fields) == 0 {
			continue
		}
		e, err := parseEntry(fields)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		out = append(out, e)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, errors.New("it lists no TPM")
	}
	return out, nil
}

func parseEntry(fields []string) (e policy.Entry, err error) {
	if len(fields) != 3 {
		return e, errors.New("want three words: name, role, identity")
	}
	e.Kind, e.Name, e.Role = attestation.EndorsementKey, fields[0], fields[1]
	if err := e.Value.UnmarshalText([]byte(fields[2])); err != nil {
		return e, fmt.Errorf("identity: %w", err)
	}
	return e, nil
}
