// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/constellation-os/constellation/cli/local/machine"
	"github.com/constellation-os/constellation/measurements"
	"github.com/constellation-os/constellation/measurements/predict"
)

// Bounds of a boot on two busy processors without KVM, several times what an
// idle machine takes.
const (
	bootDeadline = 6 * time.Minute
	bootStall    = 90 * time.Second
)

func folder(t testing.TB, env string) string {
	t.Helper()
	dir := os.Getenv(env)
	if dir == "" {
		t.Fatalf("%s is not set: run this test with tools/bazel, or see the package comment", env)
	}
	return dir
}

// config describes the machine that every test starts from.
func config(t testing.TB) machine.Config {
	t.Helper()
	firmware := folder(t, firmwareEnv)
	return machine.Config{
		Name:  "e2e",
		Disk:  filepath.Join(folder(t, imageEnv), "disk.raw"),
		Shape: measurements.QEMU(),
		Firmware: machine.Firmware{
			Code: filepath.Join(firmware, "OVMF_CODE_4M.fd"),
			Vars: filepath.Join(firmware, "OVMF_VARS_4M.fd"),
		},
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// mustBoot boots a machine until it has reported what it measured. It runs until the test ends.
func mustBoot(t *testing.T, c machine.Config) *machine.Machine {
	t.Helper()
	options := machine.BootOptions{Deadline: bootDeadline, Stall: bootStall}
	m, err := machine.Boot(t.Context(), c, options, func(ctx context.Context, m *machine.Machine) error {
		_, err := m.Line(ctx, machine.MeasurementsPort)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%5.1f s: booted", time.Since(m.Started()).Seconds())
	t.Cleanup(func() {
		m.Stop()
		if t.Failed() {
			t.Logf("the console's last lines:\n%s", machine.LastLines(m.ConsoleTail(), 60))
		}
	})
	return m
}

// predicted computes what a machine must measure, from artifacts alone.
func predicted(t testing.TB, c machine.Config, firmwareConfig map[string][]byte) *measurements.Prediction {
	t.Helper()
	p, err := predict.FromFiles(predict.Files{
		Disk: c.Disk, FirmwareCode: c.Firmware.Code, FirmwareVariables: c.Firmware.Vars, Shape: &c.Shape,
		AskFirmwareConfig: func(measurements.Machine) (map[string][]byte, error) { return firmwareConfig, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// reference is the prediction for the untouched image, ACPI tables included. It
// is the same for all tests.
func reference(t testing.TB) *measurements.Prediction {
	t.Helper()
	referenceOnce.Do(func() {
		c := config(t)
		files, err := machine.ReadFirmwareConfig(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		referenceValue = predicted(t, c, files)
	})
	if referenceValue == nil {
		t.Fatal("there is no prediction: an earlier test says why")
	}
	return referenceValue
}

var (
	referenceOnce  sync.Once
	referenceValue *measurements.Prediction
)

// boot starts a machine and returns its report, or why there is none.
func boot(t testing.TB, c machine.Config) (*measurements.Observed, error) {
	t.Helper()
	var line []byte
	options := machine.BootOptions{Deadline: bootDeadline, Stall: bootStall, Progress: func(p machine.Progress) {
		t.Logf("attempt %d, %5.1f s: %s", p.Attempt, p.Elapsed.Seconds(), p.Stage)
	}}
	m, err := machine.Boot(t.Context(), c, options, func(ctx context.Context, m *machine.Machine) (err error) {
		line, err = m.Line(ctx, machine.MeasurementsPort)
		return err
	})
	if err != nil {
		return nil, err
	}
	m.Stop()
	if bytes.Contains(m.ConsoleTail(), []byte("[FAILED]")) && !c.TPM.Absent {
		t.Errorf("a unit failed:\n%s", machine.LastLines(m.ConsoleTail(), 40))
	}
	t.Logf("%5.1f s: report of %d bytes", time.Since(m.Started()).Seconds(), len(line))
	observed, err := measurements.ParseObserved(line)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("seconds since the kernel started: %v", observed.Timings)
	return observed, nil
}

// transcript is a console that is kept.
type transcript struct {
	mu sync.Mutex
	b  bytes.Buffer
}

var _ io.Writer = (*transcript)(nil)

func (c *transcript) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.Write(p)
}

func (c *transcript) contains(s string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.Contains(c.b.Bytes(), []byte(s))
}
