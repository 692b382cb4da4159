// SPDX-License-Identifier: Apache-2.0

// Command measurementreader reports once what this machine measured while it
// booted: a table on standard output, and the whole report on the virtio-serial
// port org.constellation-os.measurements. It exits with 1 if anything about the
// measurements is wrong, after having reported it.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/constellation-os/constellation/services/measurementreader"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "measurementreader: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	report := measurementreader.Read(measurementreader.System())
	timings := report.TakeTimings()
	if err := errors.Join(timings, report.WriteTable(os.Stdout)); err != nil {
		return err
	}
	device, err := measurementreader.AwaitPort("/sys/class/virtio-ports", "/dev", "/sys/bus/virtio/drivers/virtio_console")
	switch {
	case errors.Is(err, measurementreader.ErrNoPort):
		// A host that does not want the report still gets a machine.
		fmt.Fprintln(os.Stdout, err)
	case err != nil:
		return err
	default:
		if err := report.Send(device); err != nil {
			return err
		}
	}
	if _, err := daemon.SdNotify(true, daemon.SdNotifyReady+"\nSTATUS=Measurements reported"); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	if len(report.Problems) > 0 {
		return fmt.Errorf("%d problems with this machine's measurements, see above", len(report.Problems))
	}
	return nil
}
