// SPDX-License-Identifier: Apache-2.0

package measurements_test

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
)

// The kernel's list tells what PCR 10 has beside the boot aggregate.
func TestCompareKernelList(t *testing.T) {
	field := func(s string) []byte {
		return append(binary.LittleEndian.AppendUint32(nil, uint32(len(s))), s...)
	}
	entry := func(data []byte) []byte {
		b := append([]byte{10, 0, 0, 0, 1}, make([]byte, 19)...)
		b = append(b, field("ima-sig")...)
		return append(binary.LittleEndian.AppendUint32(b, uint32(len(data))), data...)
	}
	p := prediction(t)
	var values [][]byte
	for pcr := range 10 {
		values = append(values, p.PCRs[measurements.SHA256][pcr])
	}
	aggregate := measurements.Sum(values...)[measurements.SHA256]
	first := slices.Concat(field("sha256:\x00"+string(aggregate)), field("boot_aggregate\x00"), field(""))
	second := slices.Concat(field("sha256:\x00x"), field("/usr/bin/x\x00"), field(""))
	tests := map[string]struct {
		list     []byte
		extended [][]byte
		want     []brief
	}{
		"boot aggregate alone": {entry(first), nil, nil},
		"a file":               {append(entry(first), entry(second)...), [][]byte{second}, []brief{{10, measurements.ReasonExtraEvent, measurements.ComponentIMA, "/usr/bin/x", false}}},
		"list is short":        {entry(first), [][]byte{second}, []brief{{10, measurements.ReasonLogDoesNotReplay, measurements.ComponentIMA, "kernel's list of PCR 10", false}}},
		"no list":              {nil, [][]byte{second}, []brief{{10, measurements.ReasonValue, measurements.ComponentIMA, "value of PCR 10", false}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			o := artifacttest.Observed(p, artifacttest.EventsOf(p))
			o.IMALog = test.list
			for a, pcrs := range o.PCRs {
				for _, data := range test.extended {
					pcrs[10] = a.Extend(pcrs[10], measurements.Sum(data)[a])
				}
			}
			c, err := measurements.Compare(p, o)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, briefs(c)); !c.Match || diff != "" {
				t.Errorf("match: %v; findings (-want +got): %s", c.Match, diff)
			}
		})
	}
}
