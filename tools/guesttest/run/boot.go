// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/constellation-os/constellation/tools/guesttest/wire"
)

// bootPatience is how long a guest may take until its test starts; an idle machine needs less than 5 s.
const bootPatience = 2 * time.Minute

// commandLine is close to the image's own (image/cmdline.conf).
const commandLine = "console=ttyS0 loglevel=4 panic=-1 oops=panic lockdown=confidentiality module.sig_enforce=1 " +
	"random.trust_cpu=on tsc=reliable"

// boot runs the guest and returns the test's exit code.
func (c *config) boot(ctx context.Context, scratch string, back returns) (int, error) {
	program, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return 2, errors.New("qemu-system-x86_64 is not installed: install the package qemu-system-x86, or use tools/bazel")
	}
	console := &tail{}
	var files []*os.File
	channel := func() (*os.File, error) {
		ours, theirs, err := socketPair()
		if err == nil {
			files = append(files, theirs)
		}
		return ours, err
	}
	consoleEnd, err := channel()
	if err != nil {
		return 2, err
	}
	defer consoleEnd.Close()
	portEnd, err := channel()
	if err != nil {
		return 2, err
	}
	defer portEnd.Close()

	args, err := c.hardware(scratch)
	if err != nil {
		return 2, err
	}
	if c.TPM {
		tpm, stop, err := startTPM(scratch)
		if err != nil {
			return 2, err
		}
		defer stop()
		files = append(files, tpm)
		args = append(args, "-chardev", "socket,id=tpm,fd=5", "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0")
	}
	machine := exec.Command(program, args...)
	machine.ExtraFiles = files
	complaints := &tail{}
	machine.Stdout, machine.Stderr = complaints, complaints
	ended, err := start(machine)
	for _, f := range files {
		f.Close()
	}
	if err != nil {
		return 2, err
	}
	go io.Copy(console, consoleEnd)
	s := &session{begin: c.begin, back: back, started: make(chan struct{})}
	received := make(chan error, 1)
	go func() { received <- s.receive(portEnd) }()

	err = s.wait(ctx, received)
	_ = machine.Process.Kill() // ended by itself, perhaps
	<-ended
	if err != nil {
		return 2, fmt.Errorf("%w\n%s\nThe console's end:\n%s", err, complaints, console)
	}
	if text := console.String(); s.code != 0 && text != "" {
		fmt.Fprintf(os.Stderr, "guesttest: the kernel's last words:\n%s\n", text)
	}
	return s.code, nil
}

// hardware returns QEMU's arguments. Descriptors 3 and 4 are the console and the port.
func (c *config) hardware(scratch string) ([]string, error) {
	args := []string{
		"-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-machine", "q35,smm=off,vmport=off,sata=off,graphics=off", "-accel", "tcg,thread=multi",
		"-cpu", "max,-erms,-fsrm,-fzrm,-fsrs,-fsrc", // see cli/local/machine
		"-smp", strconv.Itoa(c.CPUs), "-m", strconv.Itoa(c.Memory) + "M",
		"-kernel", c.Kernel, "-initrd", filepath.Join(scratch, "initrd"), "-append", commandLine,
		"-object", "rng-random,id=random,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=random",
		"-chardev", "socket,id=console,fd=3", "-serial", "chardev:console",
		"-chardev", "socket,id=port,fd=4", "-device", "virtio-serial-pci,id=ports",
		"-device", "virtserialport,bus=ports.0,nr=1,chardev=port,name=" + wire.PortName,
	}
	for i, d := range c.Disks {
		path := filepath.Join(scratch, "disk-"+strconv.Itoa(i))
		size, err := parseSize(d.Size)
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.Name, err)
		}
		if len(d.Name) > 20 || strings.ContainsAny(d.Name, ",=") {
			return nil, fmt.Errorf("disk %s: its name must have at most 20 characters and no comma", d.Name)
		}
		file, err := os.Create(path)
		if err != nil {
			return nil, err
		}
		err = errors.Join(file.Truncate(size), file.Close())
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.Name, err)
		}
		args = append(args,
			"-drive", fmt.Sprintf("if=none,id=disk%d,format=raw,cache=unsafe,discard=unmap,file=%s", i, path),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d,serial=%s", i, d.Name))
	}
	return args, nil
}

func parseSize(text string) (int64, error) {
	units := map[byte]int64{'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40}
	if text == "" || units[text[len(text)-1]] == 0 {
		return 0, fmt.Errorf("size %q is not a number with K, M, G or T", text)
	}
	number, err := strconv.ParseInt(text[:len(text)-1], 10, 32)
	if err != nil || number <= 0 {
		return 0, fmt.Errorf("size %q is not a number with K, M, G or T", text)
	}
	return number * units[text[len(text)-1]], nil
}

// start starts a child that the kernel ends when this process ends. That is bound to the thread that forked, which is
// therefore kept until the child has been reaped.
func start(cmd *exec.Cmd) (<-chan struct{}, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ends says nothing: it is killed
			close(ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return ended, nil
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "host"), os.NewFile(uintptr(fds[1]), "guest"), nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-tailSize):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(strings.ReplaceAll(string(t.text), "\r", ""))
}
