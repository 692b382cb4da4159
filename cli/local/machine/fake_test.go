// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// fakeEnv makes this test binary a QEMU without a machine in it; its value is
// what that does.
const fakeEnv = "MACHINE_TEST_FAKE_QEMU"

// What a fake QEMU does, once somebody talks to its monitor.
const (
	fakeReports = "reports" // boots and writes a line to the measurements port
	fakeStuck   = "stuck"   // says one word on the console, then nothing
	fakeSilent  = "silent"  // does nothing at all
	fakeChatty  = "chatty"  // writes to the console for ever
	fakePanics  = "panics"  // resets itself
	fakeRefuses = "refuses" // ends at once
)

func TestMain(m *testing.M) {
	if behaviour := os.Getenv(fakeEnv); behaviour != "" {
		if err := fakeQEMU(behaviour, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// useFakeQEMU puts the fake in front of everything else. It returns a config that
// is complete as far as files go, and the file in which each start is counted.
func useFakeQEMU(t *testing.T, behaviour string) (c Config, starts func() int) {
	t.Helper()
	bin, dir := t.TempDir(), t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(bin, "qemu-system-x86_64")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("TMPDIR", dir)
	t.Setenv(fakeEnv, behaviour)
	t.Setenv(fakeEnv+"_STARTS", filepath.Join(bin, "starts"))
	files := t.TempDir()
	for _, name := range []string{"disk", "code", "vars"} {
		if err := os.WriteFile(filepath.Join(files, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("files are left: %v, %v", left, err)
		}
	})
	c = Config{
		Disk: filepath.Join(files, "disk"), TPM: TPM{Absent: true}, Acceleration: AccelerationTCG,
		Firmware: Firmware{Code: filepath.Join(files, "code"), Vars: filepath.Join(files, "vars")},
	}
	return c, func() int {
		marks, err := os.ReadFile(filepath.Join(bin, "starts"))
		if err != nil {
			return 0
		}
		return len(marks)
	}
}

// fakeQEMU serves the monitor and plays the guest.
func fakeQEMU(behaviour string, args []string) error {
	if path := os.Getenv(fakeEnv + "_STARTS"); path != "" {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.WriteString("x"); err != nil {
			return err
		}
	}
	if behaviour == fakeRefuses {
		return fmt.Errorf("qemu-system-x86_64: no such board")
	}
	channels, err := inherited(args)
	if err != nil {
		return err
	}
	play := map[string]func(){
		fakeReports: func() {
			fmt.Fprint(channels["console"], "BdsDxe: starting Boot0001\r\n[    0.000000] hello\r\n")
			if port := channels["port0"]; port != nil {
				fmt.Fprint(port, "the report\n")
			}
			if adapter := channels[netdev]; adapter != nil {
				fmt.Fprint(adapter, "a frame")
			}
		},
		fakeStuck:  func() { fmt.Fprint(channels["console"], "BdsDxe: starting Boot0001\r\n") },
		fakeSilent: func() {},
		fakeChatty: func() {
			for {
				if _, err := fmt.Fprint(channels["console"], "tick\r\n"); err != nil {
					return
				}
			}
		},
		fakePanics: func() {
			fmt.Fprint(channels["console"], "[    1.000000] Kernel panic - not syncing\r\n")
			fmt.Fprint(channels["monitor"], `{"event":"SHUTDOWN","data":{"reason":"guest-reset"}}`+"\n")
			os.Exit(0)
		},
	}[behaviour]
	return serveMonitor(channels["monitor"], play)
}

var channelArgument = regexp.MustCompile(`^(?:socket|stream),id=(\w+),(?:server=off,addr\.type=fd,addr\.str|fd)=(\d+)$`)

// inherited opens the channels that the arguments name.
func inherited(args []string) (map[string]net.Conn, error) {
	channels := make(map[string]net.Conn)
	for _, arg := range args {
		match := channelArgument.FindStringSubmatch(arg)
		if match == nil {
			continue
		}
		fd, err := strconv.Atoi(match[2])
		if err != nil {
			return nil, err
		}
		f := os.NewFile(uintptr(fd), match[1])
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", arg, err)
		}
		channels[match[1]] = conn
	}
	return channels, nil
}

// serveMonitor greets, answers, and starts to play when it has been greeted back.
func serveMonitor(conn net.Conn, play func()) error {
	// As QEMU does, on the signal of a terminal.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	if _, err := io.WriteString(conn, `{"QMP":{}}`+"\n"); err != nil {
		return err
	}
	for d := json.NewDecoder(conn); ; {
		var command struct {
			Execute string `json:"execute"`
		}
		if err := d.Decode(&command); err != nil {
			return err
		}
		answer := `{"return":{}}`
		switch {
		case strings.HasPrefix(command.Execute, "query-blockstats"):
			answer = `{"return":[]}`
		case command.Execute == "quit":
			_, err := io.WriteString(conn, `{"event":"SHUTDOWN","data":{"reason":"host-qmp-quit"}}`+"\n")
			return err
		}
		if _, err := io.WriteString(conn, answer+"\n"); err != nil {
			return err
		}
		if command.Execute == "qmp_capabilities" {
			go play() // which may end this process
		}
	}
}
