// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/hex"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/constellation-os/constellation/cli/command"
	"github.com/constellation-os/constellation/measurements"
)

func compareCommand() *cobra.Command {
	var cluster string
	var events bool
	cmd := &cobra.Command{
		Use:   "compare MEASUREMENTS OBSERVED",
		Short: "Compare what a machine measured with what its image predicts",
		Long: `compare judges OBSERVED, the report of measurementreader on a machine, by
MEASUREMENTS, the prediction for its image. Every difference is explained: which
event, what was expected, what was seen, which component owns it, what to do next.

The verdict rests on the PCR values and on the log's digests in order. What the log
says about its events only explains.

Exit codes: 0 match, 1 mismatch, 2 an input that cannot be judged.`,
		Example: `  constellation image compare measurements.json observed.json
  constellation image compare measurements.json observed.json --output json | jq .findings
  constellation image compare measurements.json - < observed.json`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := runCompare(cmd, args[0], args[1], cluster)
			if err != nil {
				return err
			}
			format, err := command.Output(cmd)
			if err != nil {
				return err
			}
			if format == command.JSON {
				err = command.WriteJSON(cmd.OutOrStdout(), c)
			} else {
				err = WriteComparison(cmd.OutOrStdout(), c, events)
			}
			if err == nil && !c.Match {
				err = command.ErrMismatch
			}
			return err
		},
	}
	cmd.Flags().StringVar(&cluster, "cluster-id", "", "cluster identity (hexadecimal) of an initialised node; without it the node must be fresh")
	cmd.Flags().BoolVar(&events, "events", false, "also list every event")
	return cmd
}

func runCompare(cmd *cobra.Command, predictionFile, observedFile, cluster string) (*measurements.Comparison, error) {
	raw, err := command.ReadInput(cmd, predictionFile, measurements.MaxPredictionSize)
	if err != nil {
		return nil, err
	}
	p, err := measurements.ParsePrediction(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", predictionFile, err)
	}
	if raw, err = command.ReadInput(cmd, observedFile, measurements.MaxObservedSize); err != nil {
		return nil, err
	}
	o, err := measurements.ParseObserved(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", observedFile, err)
	}
	if cluster != "" {
		id, err := hex.DecodeString(cluster)
		if err != nil {
			return nil, fmt.Errorf("--cluster-id: %w", err)
		}
		if len(id) != measurements.ClusterIDSize {
			return nil, fmt.Errorf("--cluster-id: %d bytes, and a cluster's identity has %d", len(id), measurements.ClusterIDSize)
		}
		p = p.Initialized(id)
	}
	c, err := measurements.Compare(p, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", observedFile, err)
	}
	return c, nil
}

// WriteComparison prints the verdict for people: the PCRs, with events also every
// event, then the differences, then one line that says it all.
func WriteComparison(w io.Writer, c *measurements.Comparison, events bool) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "PCR\tENFORCED\tRESULT\tSHA-256")
	for _, r := range c.PCRs {
		value := r.SeenSHA256.String()
		if len(r.SeenSHA256) == 0 {
			value = "not reported"
		}
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s\n", r.PCR, yesNo(r.Enforced), r.Status, value)
	}
	if events {
		fmt.Fprintln(tw)
		fmt.Fprintln(tw, "PCR\tEVENT\tCOMPONENT\tRESULT\tSHA-256")
		for _, e := range c.Events {
			result, digest, what := string(e.Status), e.Seen, e.Description
			if e.Reason != "" {
				result = string(e.Reason)
			}
			if len(digest) == 0 {
				digest = e.Expected
			}
			if what == "" {
				what = e.Type
			}
			fmt.Fprintf(tw, "%d\t%s\t%s\t%s\t%s\n", e.PCR, what, e.Component, result, short(digest))
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, f := range c.Findings {
		writeFinding(w, &f)
	}
	_, err := fmt.Fprintf(w, "\n%s\n", verdict(c))
	return err
}

func writeFinding(w io.Writer, f *measurements.Finding) {
	weight := "note"
	if f.Fails {
		weight = "mismatch"
	}
	if f.PCR != measurements.NoPCR {
		weight = fmt.Sprintf("%s, PCR %d", weight, f.PCR)
	}
	fmt.Fprintf(w, "\n%s, %s, component %s\n  %s\n", weight, f.Reason, f.Component, f.Explanation)
	if len(f.Expected) > 0 {
		fmt.Fprintf(w, "  expected  %s\n", f.Expected)
	}
	if len(f.Seen) > 0 {
		fmt.Fprintf(w, "  seen      %s\n", f.Seen)
	}
	fmt.Fprintf(w, "  what to do: %s\n", f.Advice)
}

func verdict(c *measurements.Comparison) string {
	if c.Match {
		return "measurements match"
	}
	return "measurements differ"
}
