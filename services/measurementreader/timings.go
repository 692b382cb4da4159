// SPDX-License-Identifier: Apache-2.0

package measurementreader

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Names of the timings, each in seconds since the kernel started.
const (
	// TimingSystemd is when the system manager of the root file system began.
	TimingSystemd = "systemd"
	// TimingReport is when the report was complete.
	TimingReport = "report"
)

// systemdFolder is made by systemd when it starts.
const systemdFolder = "/run/systemd"

// TakeTimings adds what can be known without asking anybody.
func (r *Report) TakeTimings() error {
	now, err := sinceKernelStart()
	if err != nil {
		return fmt.Errorf("read the monotonic clock: %w", err)
	}
	r.Observed.Timings[TimingReport] = now.Seconds()
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, systemdFolder, 0, unix.STATX_BTIME, &st); err != nil || st.Mask&unix.STATX_BTIME == 0 {
		return nil
	}
	born := time.Unix(st.Btime.Sec, int64(st.Btime.Nsec))
	if at := now - time.Since(born); at > 0 {
		r.Observed.Timings[TimingSystemd] = at.Seconds()
	}
	return nil
}

// sinceKernelStart is the monotonic clock, which starts with the kernel and
// stands still while the machine sleeps.
func sinceKernelStart() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, err
	}
	return time.Duration(ts.Nano()), nil
}
