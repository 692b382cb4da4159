// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package devicemapper makes, describes and removes device-mapper devices of one target through /dev/mapper/control.
//
// It exists so that the initrd needs neither libdevmapper nor veritysetup, and so that the table of the state disk is
// composed from checked values by the code that checked them. It speaks version 4 of the interface in
// linux/dm-ioctl.h and only what is needed to bring one table live.
//
// Trust boundary: the kernel is trusted; the table comes from the caller, who must have composed it from measured
// values. What the table promises, the kernel's target enforces.
package devicemapper

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Table is a device of one target.
type Table struct {
	// Name and UUID name the device to the rest of the system, at most 127 and 128 bytes.
	Name, UUID string
	// Sectors is the device's size in units of 512 bytes.
	Sectors uint64
	// Target is the kernel's name of the target, at most 15 bytes.
	Target string
	// Parameters is the target's own argument string.
	Parameters string
}

// Fields of struct dm_ioctl and struct dm_target_spec (linux/dm-ioctl.h).
const (
	headerSize = 312
	specSize   = 40

	offsetVersion     = 0
	offsetDataSize    = 12
	offsetDataStart   = 16
	offsetTargetCount = 20
	offsetFlags       = 28
	offsetDevice      = 40
	offsetName        = 48
	offsetUUID        = 176
	nameSize          = 128
	uuidSize          = 129

	versionMajor = 4

	flagReadOnly   = 1 << 0
	flagSecureData = 1 << 15 // the kernel wipes its copy of the request

	// answerSize has room for the status of one target.
	answerSize = 4096
)

// ioctl numbers: _IOWR(0xfd, command, struct dm_ioctl).
const (
	requestCreate  = 3<<30 | headerSize<<16 | 0xfd<<8 | 3
	requestRemove  = 3<<30 | headerSize<<16 | 0xfd<<8 | 4
	requestSuspend = 3<<30 | headerSize<<16 | 0xfd<<8 | 6
	requestLoad    = 3<<30 | headerSize<<16 | 0xfd<<8 | 9
	requestStatus  = 3<<30 | headerSize<<16 | 0xfd<<8 | 12
)

// CreateReadOnly makes the device, loads the table and resumes it. It returns the device's number as major and minor.
func CreateReadOnly(table Table) (major, minor uint32, err error) {
	return create(table, flagReadOnly)
}

// Create is CreateReadOnly for a device that can be written.
func Create(table Table) (major, minor uint32, err error) {
	return create(table, 0)
}

func create(table Table, flags uint32) (major, minor uint32, err error) {
	control, err := openControl()
	if err != nil {
		return 0, 0, err
	}
	defer control.Close()

	header, err := newHeader(table, flags)
	if err != nil {
		return 0, 0, err
	}
	copy(header[offsetUUID:], table.UUID)
	if err := call(control, requestCreate, header); err != nil {
		return 0, 0, fmt.Errorf("create device %s: %w", table.Name, err)
	}
	device := binary.NativeEndian.Uint64(header[offsetDevice:])

	load, err := newLoad(table, flags)
	if err != nil {
		return 0, 0, err
	}
	defer clear(load)
	if err := call(control, requestLoad, load); err != nil {
		remove(control, table)
		return 0, 0, fmt.Errorf("load %s table of device %s: %w", table.Target, table.Name, err)
	}
	// Suspending without the suspend flag is how a loaded table is made live.
	header, err = newHeader(table, flags)
	if err != nil {
		return 0, 0, err
	}
	if err := call(control, requestSuspend, header); err != nil {
		remove(control, table)
		return 0, 0, fmt.Errorf("resume device %s: %w", table.Name, err)
	}
	return unix.Major(device), unix.Minor(device), nil
}

// Remove takes a device away. It fails with [unix.EBUSY] while the device is used, and with [unix.ENXIO] if there is
// none.
func Remove(name string) error {
	control, err := openControl()
	if err != nil {
		return err
	}
	defer control.Close()
	header, err := newHeader(Table{Name: name}, 0)
	if err != nil {
		return err
	}
	if err := call(control, requestRemove, header); err != nil {
		return fmt.Errorf("remove device %s: %w", name, err)
	}
	return nil
}

// State is what is known of a device.
type State struct {
	UUID         string
	Major, Minor uint32
	// Sectors is the device's size in units of 512 bytes.
	Sectors uint64
	// Status is what the target says of itself.
	Status string
}

// Inspect returns a device's state. It fails with [unix.ENXIO] if there is no such device.
func Inspect(name string) (State, error) {
	control, err := openControl()
	if err != nil {
		return State{}, err
	}
	defer control.Close()
	header, err := newHeader(Table{Name: name}, 0)
	if err != nil {
		return State{}, err
	}
	answer := append(header, make([]byte, answerSize)...)
	binary.NativeEndian.PutUint32(answer[offsetDataSize:], uint32(len(answer)))
	if err := call(control, requestStatus, answer); err != nil {
		return State{}, fmt.Errorf("ask for the state of device %s: %w", name, err)
	}
	return parseState(answer), nil
}

// parseState decodes the kernel's answer: struct dm_ioctl, and one struct dm_target_spec with the status as text.
func parseState(answer []byte) State {
	device := binary.NativeEndian.Uint64(answer[offsetDevice:])
	uuid, _, _ := bytes.Cut(answer[offsetUUID:offsetUUID+uuidSize], []byte{0})
	state := State{UUID: string(uuid), Major: unix.Major(device), Minor: unix.Minor(device)}
	start := uint64(binary.NativeEndian.Uint32(answer[offsetDataStart:]))
	if binary.NativeEndian.Uint32(answer[offsetTargetCount:]) == 0 || start+specSize > uint64(len(answer)) {
		return state
	}
	spec := answer[start:]
	text, _, _ := bytes.Cut(spec[specSize:], []byte{0})
	state.Sectors, state.Status = binary.NativeEndian.Uint64(spec[8:]), string(text)
	return state
}

func openControl() (*os.File, error) {
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open device mapper: %w", err)
	}
	return control, nil
}

// remove takes a half-made device away. Its failure adds nothing to the error that the caller already reports.
func remove(control *os.File, table Table) {
	if header, err := newHeader(table, 0); err == nil {
		_ = call(control, requestRemove, header)
	}
}

// newHeader encodes struct dm_ioctl for table. The UUID stays empty: it is given when the device is created, and
// afterwards the kernel wants a device to be named either way, not both.
func newHeader(table Table, flags uint32) ([]byte, error) {
	if table.Name == "" || len(table.Name) >= nameSize || len(table.UUID) >= uuidSize {
		return nil, fmt.Errorf("device name %q or UUID %q has a wrong length", table.Name, table.UUID)
	}
	header := make([]byte, headerSize)
	binary.NativeEndian.PutUint32(header[offsetVersion:], versionMajor)
	binary.NativeEndian.PutUint32(header[offsetDataSize:], headerSize)
	binary.NativeEndian.PutUint32(header[offsetDataStart:], headerSize)
	binary.NativeEndian.PutUint32(header[offsetFlags:], flags)
	copy(header[offsetName:], table.Name)
	return header, nil
}

// newLoad encodes struct dm_ioctl followed by one struct dm_target_spec and its parameters.
func newLoad(table Table, flags uint32) ([]byte, error) {
	if table.Target == "" || len(table.Target) > 15 {
		return nil, fmt.Errorf("target name %q has a wrong length", table.Target)
	}
	request, err := newHeader(table, flags|flagSecureData)
	if err != nil {
		return nil, err
	}
	spec := make([]byte, specSize)
	size := (specSize + len(table.Parameters) + 1 + 7) / 8 * 8
	binary.NativeEndian.PutUint64(spec[8:], table.Sectors)
	binary.NativeEndian.PutUint32(spec[20:], uint32(size))
	copy(spec[24:], table.Target)
	request = append(request, spec...)
	request = append(request, table.Parameters...)
	request = append(request, make([]byte, headerSize+size-len(request))...)
	binary.NativeEndian.PutUint32(request[offsetDataSize:], uint32(len(request)))
	binary.NativeEndian.PutUint32(request[offsetTargetCount:], 1)
	return request, nil
}

func call(control *os.File, request uintptr, buffer []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), request, uintptr(unsafe.Pointer(&buffer[0])))
	runtime.KeepAlive(buffer)
	if errno != 0 {
		return errno
	}
	return nil
}
