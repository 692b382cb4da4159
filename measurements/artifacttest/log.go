// SPDX-License-Identifier: Apache-2.0

package artifacttest

import (
	"encoding/binary"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/tcg"
)

// LogEvent is one event of a log to be made.
type LogEvent struct {
	PCR     int
	Type    tcg.EventType
	Digests measurements.Digests
	Data    []byte
}

// Log makes a crypto-agile event log with the given banks.
func Log(banks []measurements.Algorithm, events ...LogEvent) []byte {
	le := binary.LittleEndian
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2)
	spec = le.AppendUint32(spec, uint32(len(banks)))
	for _, a := range banks {
		spec = le.AppendUint16(spec, uint16(a.TCG()))
		spec = le.AppendUint16(spec, uint16(a.Size()))
	}
	spec = append(spec, 0)
	out := le.AppendUint32(nil, 0)
	out = le.AppendUint32(out, uint32(tcg.NoAction))
	out = append(out, make([]byte, 20)...)
	out = append(le.AppendUint32(out, uint32(len(spec))), spec...)
	for _, e := range events {
		out = le.AppendUint32(out, uint32(e.PCR))
		out = le.AppendUint32(out, uint32(e.Type))
		out = le.AppendUint32(out, uint32(len(banks)))
		for _, a := range banks {
			out = le.AppendUint16(out, uint16(a.TCG()))
			d := e.Digests[a]
			if d == nil {
				d = a.Zero()
			}
			out = append(out, d...)
		}
		out = append(le.AppendUint32(out, uint32(len(e.Data))), e.Data...)
	}
	return out
}

// EventsOf are the log entries of a machine that measured what was predicted.
// Extensions that no firmware logs are left out.
func EventsOf(p *measurements.Prediction) []LogEvent {
	types := map[string]tcg.EventType{}
	for t := tcg.EventType(0); t < 0x20; t++ {
		types[t.String()], types[(t|0x80000000).String()] = t, t|0x80000000
	}
	var out []LogEvent
	for _, e := range p.Events {
		if measurements.InFirmwareLog(e.PCR) {
			out = append(out, LogEvent{e.PCR, types[e.Type], e.Digests, []byte(e.Description)})
		}
	}
	return out
}

// Observed is what a machine reports that measured events, and then what the
// kernel and the cluster added: the latter according to p, the kernel its boot
// aggregate.
func Observed(p *measurements.Prediction, events []LogEvent) *measurements.Observed {
	o := &measurements.Observed{Version: measurements.Version, PCRs: measurements.Banks{}, EventLog: Log(measurements.Algorithms(), events...)}
	for _, a := range measurements.Algorithms() {
		pcrs := measurements.PCRs{}
		for i := range measurements.PCRCount {
			pcrs[i] = a.Zero()
		}
		for _, e := range events {
			if e.Type != tcg.NoAction {
				pcrs[e.PCR] = a.Extend(pcrs[e.PCR], e.Digests[a])
			}
		}
		for _, e := range p.Events {
			if e.PCR == measurements.ClusterPCR {
				pcrs[e.PCR] = a.Extend(pcrs[e.PCR], e.Digests[a])
			}
		}
		o.PCRs[a] = pcrs
	}
	aggregate, err := measurements.BootAggregate(o.PCRs[measurements.SHA256])
	if err != nil {
		panic(err)
	}
	for a, pcrs := range o.PCRs {
		pcrs[measurements.KernelPCR] = a.Extend(pcrs[measurements.KernelPCR], aggregate[a])
	}
	return o
}
