// SPDX-License-Identifier: Apache-2.0

package measurementreader

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

	"github.com/constellation-os/constellation/measurements"
)

// WriteTable prints the report for people.
func (r *Report) WriteTable(w io.Writer) error {
	var out bytes.Buffer
	fmt.Fprintln(&out, "Measurements of this boot")
	for _, problem := range r.Problems {
		fmt.Fprintf(&out, "! %v\n", problem)
	}
	if values := r.Observed.PCRs[measurements.SHA256]; values != nil {
		table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "PCR\tSHA-256\tevents\tlog")
		for pcr := range measurements.PCRCount {
			events, verdict := r.rowOf(pcr)
			fmt.Fprintf(table, "%d\t%s\t%s\t%s\n", pcr, values[pcr], events, verdict)
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	_, err := w.Write(out.Bytes())
	return err
}

func (r *Report) rowOf(pcr int) (events, verdict string) {
	if r.Replay == nil {
		return "-", "no log"
	}
	events = strconv.Itoa(r.Replay.Events[pcr])
	switch {
	case r.Replay.Agrees[pcr]:
		return events, "agrees"
	case pcr == measurements.KernelPCR:
		return events, "extended by the kernel"
	default:
		return events, "differs"
	}
}
