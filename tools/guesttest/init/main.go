// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command init is the first program of a test's guest: it loads the kernel modules, runs the test and hands its output,
// its files and its exit code to the host.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/constellation-os/constellation/tools/guesttest/wire"
)

func main() {
	if err := mountAll(); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		halt()
	}
	port, err := openPort()
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		halt()
	}
	host := wire.NewWriter(port)
	if err := run(host); err != nil {
		_ = host.Frame(wire.Failed, []byte(err.Error())) // the host sees the end of the guest otherwise
	}
	halt()
}

// halt waits for the host, which ends the machine when it has read the last frame: sooner than a shutdown would.
func halt() {
	time.Sleep(10 * time.Second)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	os.Exit(1)
}

func run(host *wire.Writer) error {
	text, err := os.ReadFile("/" + wire.RequestPath)
	if err != nil {
		return err
	}
	var request wire.Request
	if err := json.Unmarshal(text, &request); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := raiseLoopback(); err != nil {
		return err
	}
	if err := os.MkdirAll("/"+wire.Returned, 0o755); err != nil {
		return err
	}
	test := exec.Command("/"+wire.BinaryPath, request.Args...)
	test.Env = request.Env
	test.Dir = request.Directory
	test.Stdout, test.Stderr = host.Stream(wire.Stdout), host.Stream(wire.Stderr)
	if err := host.Frame(wire.Started, nil); err != nil {
		return err
	}
	err = test.Run()
	code := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		if code = exit.ExitCode(); code < 0 {
			fmt.Fprintln(host.Stream(wire.Stderr), "the test ended:", exit)
			code = 2
		}
	case err != nil:
		return fmt.Errorf("run the test: %w", err)
	}
	if err := host.SendFiles("/" + wire.Returned); err != nil {
		return fmt.Errorf("return files: %w", err)
	}
	return host.Frame(wire.Exit, []byte{byte(code)})
}

func mountAll() error {
	for _, m := range []struct{ kind, path, data string }{
		{"devtmpfs", "/dev", ""},
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"tmpfs", "/tmp", "mode=1777"},
		{"tmpfs", "/run", "mode=0755"},
		{"securityfs", "/sys/kernel/security", ""},
	} {
		if err := unix.Mount(m.kind, m.path, m.kind, 0, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.path, err)
		}
	}
	return nil
}

// openPort waits for the port: drivers look for their devices while this program starts already.
func openPort() (*os.File, error) {
	for range 1000 {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			content, err := os.ReadFile(name)
			if err == nil && strings.TrimSpace(string(content)) == wire.PortName {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(name)), os.O_WRONLY, 0)
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil, errors.New("the machine has no port to the host")
}

func loadModules() error {
	list, err := os.ReadFile("/" + wire.Modules)
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(list)) {
		file, err := os.Open(path.Join("/", wire.ModuleDirectory, name))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(file.Fd()), "", 0)
		file.Close()
		// A processor may lack the instructions that an accelerated cipher needs.
		if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("load module %s: %w", name, err)
		}
	}
	return nil
}

func raiseLoopback() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("raise the loopback interface: %w", err)
	}
	defer unix.Close(socket)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("raise the loopback interface: %w", err)
	}
	return nil
}
