// SPDX-License-Identifier: Apache-2.0

// Package guesttest runs Go tests inside of a small virtual machine with the image's own kernel: for code that needs
// device mapper, mounts, loop devices, root, or anything else of a kernel that a test must not ask of the machine that
// it runs on.
//
// # Writing a test
//
// Write an ordinary Go test. Give its files the build tag guest, so that `go test ./...` leaves them alone on a bare
// machine, and declare it:
//
//	load("//tools/guesttest:defs.bzl", "guest_test")
//
//	guest_test(
//	    name = "disk_guest_test",
//	    srcs = ["open_guest_test.go"],
//	    embed = [":disk"],
//	    disks = {"data": "100G"},   # sparse; the test finds them with Disk("data")
//	)
//
// The guest that tests share has the kernel modules and programs that tests of storage need, the programs out of the
// locked Debian packages; the rule guest of defs.bzl makes others.
//
// The test is process 2 of the guest, runs as root, and finds /dev, /proc, /sys and, in memory, /tmp and /run. There is
// no network but the loopback, no udev, no shell. Everything that is written is gone when the test ends.
//
// # Running it
//
//	tools/bazel test //disk:disk_guest_test
//	tools/bazel test //disk:disk_guest_test --test_filter=TestOpen --test_arg=-test.v --test_output=streamed
//	tools/bazel run  //disk:disk_guest_test -- -test.run=TestOpen -test.v
//	tools/bazel coverage //disk:disk_guest_test
//
// Arguments, filters and the environment of Bazel's tests are those of the guest's test; output, exit code, XML report,
// coverage, undeclared outputs and files named by flags such as -test.coverprofile come back. A kernel that panics, a
// guest that falls silent and a test that takes too long are told apart, with the end of the console.
//
// Without Bazel's test runner, and much faster to repeat, with a guest that was built once:
//
//	tools/bazel build //tools/guesttest:guest //tools/guesttest/run
//	go test -tags guest -exec "bazel-bin/tools/guesttest/run/run_/run -guest bazel-bin/tools/guesttest/guest -disk data=1G" ./disk
//
// # What it is not
//
// A test of the image: there is no firmware, no dm-verity, no systemd. That is what package e2e is for. The processor
// is emulated (TCG), so that results do not depend on the machine; times are several times those of hardware.
package guesttest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Disk returns the device of the scratch disk of that name.
func Disk(name string) (string, error) {
	serials, err := filepath.Glob("/sys/block/*/serial")
	if err != nil {
		return "", err
	}
	var present []string
	for _, path := range serials {
		serial, err := os.ReadFile(path)
		if err != nil {
			continue // it has just gone
		}
		present = append(present, string(serial))
		if strings.TrimSpace(string(serial)) == name {
			return "/dev/" + filepath.Base(filepath.Dir(path)), nil
		}
	}
	return "", fmt.Errorf("the guest has no disk %q, only %q: name it in the rule's attribute disks", name, present)
}

// Eventually calls condition until it returns nil, for at most patience, and returns its last error.
// It is for what a kernel does in its own time, such as making the node of a device.
func Eventually(patience time.Duration, condition func() error) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		err := condition()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("not after %v", patience), err)
		}
	}
}
