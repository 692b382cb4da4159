// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/constellation-os/constellation/cli/local/machine"
	"github.com/constellation-os/constellation/e2e/driver"
)

// requestDeadline bounds how long a machine takes to do one thing.
const requestDeadline = 4 * time.Minute

// driven is a machine that does what the test says.
type driven struct {
	*machine.Machine
	console *transcript
}

// drive boots the driver's flavour of the image.
func drive(t *testing.T, c machine.Config) *driven {
	t.Helper()
	d := &driven{console: &transcript{}}
	c.Console = d.console
	c.Ports = []string{machine.MeasurementsPort, driver.Port}
	d.Machine = mustBoot(t, c)
	if d.console.contains("[FAILED]") {
		t.Error("a unit failed")
	}
	return d
}

// ask has the machine do something. What it does not do is in the response.
func (d *driven) ask(t *testing.T, request driver.Request) driver.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), requestDeadline)
	defer cancel()
	begin := time.Now()
	if err := d.send(ctx, request); err != nil {
		t.Fatal(err)
	}
	line, err := d.Line(ctx, driver.Port)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > time.Second {
		t.Logf("%s took %.1f s", describe(request), took.Seconds())
	}
	var response driver.Response
	if err := json.Unmarshal(line, &response); err != nil {
		t.Fatal(err)
	}
	return response
}

func (d *driven) send(ctx context.Context, request driver.Request) error {
	line, err := json.Marshal(request)
	if err != nil {
		return err
	}
	return d.Send(ctx, driver.Port, line)
}

// must has the machine do something and fails the test if it does not.
func (d *driven) must(t *testing.T, request driver.Request) driver.Response {
	t.Helper()
	response := d.ask(t, request)
	if response.Error != "" {
		t.Fatalf("%s: %s: %s", describe(request), response.Error, response.Output)
	}
	return response
}

func describe(r driver.Request) string {
	switch {
	case r.Disk != nil:
		return r.Disk.Method
	case len(r.Run) > 0:
		return strings.Join(r.Run, " ")
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s %s %s", r.Read, r.List, r.Write, r.Make))
}

// end has the machine restart or go off, and waits until it is gone. In a machine that
// is run here a restart is its end.
func (d *driven) end(t *testing.T, how, reason string) {
	t.Helper()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), requestDeadline)
	defer cancel()
	// The answer may come too late.
	if err := d.send(ctx, driver.Request{Run: []string{"systemctl", "--no-block", how}}); err != nil {
		t.Fatal(err)
	}
	exit, err := d.Wait(ctx)
	if err != nil {
		t.Fatalf("systemctl %s: %v", how, err)
	}
	if exit.Reason != reason || exit.Err != nil {
		t.Errorf("systemctl %s ended the machine with %+v, want %s", how, exit, reason)
	}
	t.Logf("systemctl %s took %.1f s", how, time.Since(begin).Seconds())
}
