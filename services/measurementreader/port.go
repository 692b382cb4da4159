// SPDX-License-Identifier: Apache-2.0

package measurementreader

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Port is the name of the virtio-serial port that the report is written to.
const Port = "org.constellation-os.measurements"

// ErrNoPort says that the host offers no port of that name.
var ErrNoPort = errors.New("the host offers no virtio-serial port " + Port)

// portPatience is how long a host that does not read gets before it is given up.
const portPatience = 30 * time.Second

// FindPort returns the device of the port. It looks through the kernel's list
// (class is /sys/class/virtio-ports, devices is /dev) and does not depend on
// udev's links.
func FindPort(class, devices string) (string, error) {
	entries, err := os.ReadDir(class)
	if errors.Is(err, fs.ErrNotExist) {
		return "", ErrNoPort
	}
	if err != nil {
		return "", fmt.Errorf("list virtio-serial ports: %w", err)
	}
	for _, e := range entries {
		name, err := os.ReadFile(filepath.Join(class, e.Name(), "name"))
		if err != nil {
			continue // a port without a name
		}
		if strings.TrimSpace(string(name)) == Port {
			return filepath.Join(devices, e.Name()), nil
		}
	}
	return "", ErrNoPort
}

// The driver learns of the ports from the host a moment after it has found the
// device that carries them.
const (
	portAppears = 5 * time.Second
	portPoll    = 20 * time.Millisecond
)

// AwaitPort is FindPort with patience, if driver shows that there is a device
// that may yet get ports (driver is /sys/bus/virtio/drivers/virtio_console).
func AwaitPort(class, devices, driver string) (string, error) {
	for deadline := time.Now().Add(portAppears); ; time.Sleep(portPoll) {
		device, err := FindPort(class, devices)
		if !errors.Is(err, ErrNoPort) || time.Now().After(deadline) || !drivesAny(driver) {
			return device, err
		}
	}
}

// drivesAny says whether a driver on the virtio bus has found a device.
func drivesAny(driver string) bool {
	found, err := filepath.Glob(filepath.Join(driver, "virtio[0-9]*"))
	return err == nil && len(found) > 0
}

// Send writes the observation to the port's device as one line of JSON.
func (r *Report) Send(device string) error {
	line, err := json.Marshal(r.Observed)
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	port, err := os.OpenFile(device, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("open the port: %w", err)
	}
	// Without a poller, as for a regular file, there is no deadline to set.
	if err := port.SetWriteDeadline(time.Now().Add(portPatience)); err != nil && !errors.Is(err, os.ErrNoDeadline) {
		port.Close()
		return fmt.Errorf("limit the time to write: %w", err)
	}
	if _, err := port.Write(append(line, '\n')); err != nil {
		port.Close()
		return fmt.Errorf("write to the port: %w", err)
	}
	return port.Close()
}
