// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package evidence_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/tcg"
)

// Digests of events that no TPM has measured.
var (
	inSHA1   = tcg.Digest{Algorithm: tcg.AlgSHA1, Value: bytes.Repeat([]byte{1}, 20)}
	inSHA256 = tcg.Digest{Algorithm: tcg.AlgSHA256, Value: bytes.Repeat([]byte{1}, 32)}
	inSHA384 = tcg.Digest{Algorithm: tcg.AlgSHA384, Value: bytes.Repeat([]byte{1}, 48)}
	inOther  = tcg.Digest{Algorithm: 0x99, Value: bytes.Repeat([]byte{1}, 48)}
)

// rawEvent is a TCG_PCR_EVENT2 with whatever digests (PFP section 10.2.2).
func rawEvent(pcr int, typ tcg.EventType, data string, digests ...tcg.Digest) []byte {
	le := binary.LittleEndian
	out := le.AppendUint32(le.AppendUint32(le.AppendUint32(nil, uint32(pcr)), uint32(typ)), uint32(len(digests)))
	for _, d := range digests {
		out = append(le.AppendUint16(out, uint16(d.Algorithm)), d.Value...)
	}
	return append(le.AppendUint32(out, uint32(len(data))), data...)
}

// appended adds an event at the log's end.
func appended(pcr int, typ tcg.EventType, digests ...tcg.Digest) func(one, two *payload) error {
	return func(one, _ *payload) error {
		one.EventLog = append(one.EventLog, rawEvent(pcr, typ, "", digests...)...)
		return nil
	}
}

// located states the locality of the TPM's start so often before all events.
func located(times int) func(one, two *payload) error {
	return func(one, _ *payload) error {
		first := 32 + int(binary.LittleEndian.Uint32(one.EventLog[28:])) // the specification's identifier
		statement := rawEvent(0, tcg.NoAction, "StartupLocality\x00\x00", inSHA256, inSHA384)
		one.EventLog = slices.Insert(one.EventLog, first, bytes.Repeat(statement, times)...)
		return nil
	}
}

// locatedLate states it once, after PCR 0 was extended.
func locatedLate(one, _ *payload) error {
	one.EventLog = append(one.EventLog, rawEvent(0, tcg.NoAction, "StartupLocality\x00\x03", inSHA256, inSHA384)...)
	return nil
}

// written drops what was measured into PCR 11, and has another event say in its text,
// which other people's tools print, what these events would have led to.
func written(one, _ *payload) error {
	const pcr = 11
	text := "x\npcrs:\n"
	for i, bank := range []string{"sha256", "sha384"} {
		size := len(one.Banks[i].Values) / measurements.PCRCount
		text += fmt.Sprintf("  %s:\n    %d : 0x%x\n", bank, pcr, one.Banks[i].Values[pcr*size:(pcr+1)*size])
	}
	return changeLog(one, func(events []artifacttest.LogEvent) []artifacttest.LogEvent {
		events = slices.DeleteFunc(events, func(e artifacttest.LogEvent) bool { return e.PCR == pcr })
		events[0].Type, events[0].Data = tcg.EFIAction, []byte(text)
		return events
	})
}
