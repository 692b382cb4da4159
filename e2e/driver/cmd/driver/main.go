// SPDX-License-Identifier: Apache-2.0

// Command driver serves a test inside of a machine; see package driver. Run by systemd-shutdown, with an argument, it says
// what is left of the state disk at the very end.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/constellation-os/constellation/e2e/driver"
)

func main() {
	do := run
	if len(os.Args) > 1 {
		do = atTheEnd
	}
	if err := do(); err != nil {
		fmt.Fprintf(os.Stderr, "driver: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	device, err := find(driver.Port)
	if err != nil {
		return err
	}
	port, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer port.Close()
	fmt.Println("driver: this machine does what a test says")
	return driver.Serve(context.Background(), port)
}

// atTheEnd writes the names of all mapped devices to the console.
func atTheEnd() error {
	names, err := filepath.Glob("/sys/class/block/dm-*/dm/name")
	if err != nil {
		return err
	}
	var left []string
	for _, file := range names {
		name, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		left = append(left, strings.TrimSpace(string(name)))
	}
	// As an error, so that the console shows it.
	return os.WriteFile("/dev/kmsg", []byte("<3>driver: still mapped: "+strings.Join(left, ", ")+"."), 0)
}

// find returns the device of the port, which the host may be slow to name.
func find(name string) (string, error) {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return "", err
		}
		for _, file := range names {
			if content, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(content)) == name {
				return filepath.Join("/dev", filepath.Base(filepath.Dir(file))), nil
			}
		}
	}
	return "", fmt.Errorf("the host offers no virtio-serial port %s", name)
}
