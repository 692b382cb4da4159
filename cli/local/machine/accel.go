// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"os"
	"sync"
	"time"
)

// probePatience is how long firmware under KVM gets to say its first word. It
// says it within a second where KVM works.
const probePatience = 20 * time.Second

// probes holds the verdict on KVM of each QEMU binary and firmware that this
// process has tried.
var probes sync.Map // of probeKey to *probe

type probeKey struct{ qemu, firmware string }

type probe struct {
	once   sync.Once
	usable bool
}

// accelerate decides how the guest's processor is run.
func (c Config) accelerate(ctx context.Context, t tools) (Acceleration, error) {
	if c.Acceleration != AccelerationAuto {
		return c.Acceleration, nil
	}
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return AccelerationTCG, nil
	}
	kvm.Close()
	v, _ := probes.LoadOrStore(probeKey{t.qemu, c.Firmware.Code}, &probe{})
	p := v.(*probe)
	p.once.Do(func() { p.usable = c.probeKVM(ctx) })
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if p.usable {
		return AccelerationKVM, nil
	}
	return AccelerationTCG, nil
}

// probeKVM runs the machine under KVM and reports whether it really ran: a device
// that can be opened may still not be able to run a machine's first instruction.
func (c Config) probeKVM(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	spoke := make(chan struct{})
	c.Name += "-kvm-probe"
	c.TPM = TPM{Absent: true}
	c.StateDir = ""
	c.Ports = []string{}
	c.Console = &firstWord{spoke: spoke}
	c.Acceleration = AccelerationKVM
	m, err := Start(ctx, c)
	if err != nil {
		return false
	}
	defer m.Stop()
	select {
	case <-spoke:
		return true
	case <-m.Done():
		return false
	case <-ctx.Done():
		return false
	}
}

// firstWord closes a channel at the first byte written to it.
type firstWord struct {
	once  sync.Once
	spoke chan struct{}
}

func (f *firstWord) Write(p []byte) (int, error) {
	f.once.Do(func() { close(f.spoke) })
	return len(p), nil
}
