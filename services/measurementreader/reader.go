// SPDX-License-Identifier: Apache-2.0

// Package measurementreader reports what the machine that it runs on measured
// while it booted: the TPM's PCRs 0 to 15, the firmware's event log and the
// kernel's integrity list. It checks the log against the PCRs, prints a table
// for people and hands everything to the host, machine-readable, on a
// virtio-serial port.
//
// Trust boundary: the TPM, the kernel and the log are read with limits, and a
// log that cannot be parsed is reported, not trusted. Nothing here is secret:
// PCRs and the log are public.
//
// Not guaranteed: the report is unsigned. It tells whoever trusts this machine
// what booted; proof to anybody else takes a quote (package attestation).
package measurementreader

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"

	"github.com/constellation-os/constellation/measurements"
)

// Limits of what is read, in bytes. Together, encoded, they stay below
// [measurements.MaxObservedSize].
const (
	maxEventLog = 1 << 20
	maxIMALog   = 1 << 20
)

// Sources are the files that the reader reads. The zero value of a field means
// that the source is not there.
type Sources struct {
	TPM      string // the TPM's resource manager
	EventLog string // the firmware's event log, binary
	IMALog   string // the kernel's integrity list, binary
}

// System is where Linux has them.
func System() Sources {
	return Sources{
		TPM:      "/dev/tpmrm0",
		EventLog: "/sys/kernel/security/tpm0/binary_bios_measurements",
		IMALog:   "/sys/kernel/security/ima/binary_runtime_measurements",
	}
}

// ErrNoTPM says that the machine has no TPM 2.0.
var ErrNoTPM = errors.New("this machine has no TPM 2.0: nothing was measured")

// A Report is what was read, and what is wrong with it.
type Report struct {
	Observed measurements.Observed
	// Replay is the comparison of the log with the PCRs; nil if there is no log
	// that can be parsed.
	Replay *Replay
	// Problems are findings, most severe first. Each wraps its cause.
	Problems []error
}

// Read reads everything there is. What is missing becomes a problem of the
// report, so that a machine without a TPM can still say so.
func Read(s Sources) *Report {
	r := &Report{Observed: measurements.Observed{
		Version: measurements.Version,
		PCRs:    measurements.Banks{},
		Timings: map[string]float64{},
	}}
	r.readPCRs(s.TPM)
	r.readEventLog(s.EventLog)
	r.readIMALog(s.IMALog)
	return r
}

func (r *Report) problem(err error) { r.Problems = append(r.Problems, err) }

func (r *Report) readPCRs(path string) {
	if _, err := os.Stat(path); path == "" || errors.Is(err, fs.ErrNotExist) {
		r.problem(ErrNoTPM)
		return
	}
	tpm, err := linuxtpm.Open(path)
	if err != nil {
		r.problem(fmt.Errorf("open the TPM: %w", err))
		return
	}
	defer tpm.Close()
	r.takePCRs(tpm)
}

func (r *Report) takePCRs(tpm transport.TPM) {
	banks, err := ReadPCRs(tpm)
	if err != nil {
		r.problem(err)
		return
	}
	r.Observed.PCRs = banks
	if banks[measurements.SHA384] == nil {
		r.problem(errors.New("the TPM has no active SHA-384 bank: only SHA-256 values can be compared"))
	}
}

func (r *Report) readEventLog(path string) {
	log, err := readLimited(path, maxEventLog)
	if err != nil {
		r.problem(fmt.Errorf("read the firmware's event log: %w", err))
		return
	}
	r.Observed.EventLog = log
	if len(r.Observed.PCRs) == 0 {
		return
	}
	replay, err := NewReplay(log, r.Observed.PCRs)
	if err != nil {
		r.problem(fmt.Errorf("replay the firmware's event log: %w", err))
		return
	}
	r.Replay = replay
	if differing := replay.Differing(); len(differing) > 0 {
		r.problem(fmt.Errorf("the event log does not lead to the values of PCR %s", list(differing)))
	}
}

// readIMALog is silent about a missing list: a kernel without an integrity
// policy has none that services may read.
func (r *Report) readIMALog(path string) {
	log, err := readLimited(path, maxIMALog)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		r.problem(fmt.Errorf("read the kernel's integrity list: %w", err))
	default:
		r.Observed.IMALog = log
	}
}

// readLimited reads a file that may not say its size, as those of the kernel's
// security file system do not.
func readLimited(path string, limit int64) ([]byte, error) {
	if path == "" {
		return nil, fs.ErrNotExist
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	return data, nil
}
