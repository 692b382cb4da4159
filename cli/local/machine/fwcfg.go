// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// QEMU's firmware configuration device (QEMU's docs/specs/fw_cfg.rst). All its
// integers are big-endian.
const (
	fwCfgDMAHigh   = 0x514
	fwCfgDMALow    = 0x518
	fwCfgDirectory = 0x19
	fwCfgEntrySize = 64

	fwCfgDMAError  = 1 << 0
	fwCfgDMARead   = 1 << 1
	fwCfgDMASelect = 1 << 3

	// Where in guest memory, which nobody uses while the processors do not run,
	// requests and their results are put.
	fwCfgRequestAddress = 0x100000
	fwCfgDataAddress    = 0x110000

	maxFwCfgFiles = 1024
	maxFwCfgFile  = 16 << 20 // bytes
)

// fwCfgPatience bounds the whole exchange.
const fwCfgPatience = 30 * time.Second

// ReadFirmwareConfig returns the files that QEMU would offer to the firmware of
// such a machine, by name: ACPI tables, their loader script, boot order, SMBIOS
// tables. Nothing boots: QEMU is started with its processors halted and asked
// over its test interface. The board is programmed first as OVMF does it,
// because QEMU writes addresses that the firmware chose into the ACPI tables.
func ReadFirmwareConfig(ctx context.Context, c Config) (map[string][]byte, error) {
	c, t, accel, err := c.prepare(ctx)
	if err != nil {
		return nil, err
	}
	files, err := c.interrogate(ctx, t, accel)
	if err != nil {
		return nil, fmt.Errorf("read the firmware configuration of %s: %w", c.Name, err)
	}
	return files, nil
}

// interrogate starts a halted QEMU and asks it.
func (c Config) interrogate(ctx context.Context, t tools, accel Acceleration) (map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fwCfgPatience)
	defer cancel()
	m := &Machine{name: c.Name, accel: accel}
	defer m.tearDown()
	keep, scratch, err := m.scratchFolder()
	if err != nil {
		return nil, err
	}
	w := &wiring{}
	defer w.closeInherited()
	conn, fd, err := w.channel("qtest")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	qmp, qmpFD, err := w.channel("monitor")
	if err != nil {
		return nil, err
	}
	defer qmp.Close()
	if !c.TPM.Absent {
		// A blank TPM will do: only its presence shows in the tables.
		if err := w.wireTPM(); err != nil {
			return nil, err
		}
		if m.tpm, err = startTPM(t, scratch, w.tpmControl, keep.hold); err != nil {
			return nil, err
		}
	}
	vars := filepath.Join(scratch, "vars.fd")
	if err := copyOnce(c.Firmware.Vars, vars); err != nil {
		return nil, fmt.Errorf("copy the firmware's variable store: %w", err)
	}
	c.Network = nil // not in the tables, and neither is what is on a disk
	c.StateDisk = ""
	if c, err = c.withStateDisk(scratch); err != nil {
		return nil, err
	}
	args := append(c.hardware(accel, w.tpmFD), pflash(c.Firmware.Code, vars)...)
	args = append(args, c.ExtraArgs...)
	args = append(args, "-serial", "null", "-S",
		"-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", qmpFD), "-mon", "chardev=monitor,mode=control",
		"-chardev", fmt.Sprintf("socket,id=qtest,fd=%d", fd), "-qtest", "chardev:qtest", "-qtest-log", "none")
	w.files.add(keep.hold)
	if m.qemu, err = startProcess(t.qemu, args, w.files, nil); err != nil {
		return nil, err
	}
	w.closeInherited()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	files, err := interview(ctx, newMonitor(qmp), newQtest(conn))
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		m.qemu.kill()
		return nil, m.qemu.describe(err)
	}
	return files, nil
}

// interview programs the board as the firmware would and reads every file.
func interview(ctx context.Context, m *monitor, q *qtest) (map[string][]byte, error) {
	if err := m.negotiate(ctx); err != nil {
		return nil, err
	}
	cpu, err := m.processor(ctx)
	if err != nil {
		return nil, err
	}
	directory, err := readFwCfgDirectory(q)
	if err != nil {
		return nil, fmt.Errorf("read the directory: %w", err)
	}
	// The memory map comes first: the tables depend on it, through the firmware.
	memory, err := fwCfgRead(q, directory["etc/e820"].selector, directory["etc/e820"].size)
	if err != nil {
		return nil, fmt.Errorf("read the memory map: %w", err)
	}
	window, err := cpu.mmioWindow(memory)
	if err != nil {
		return nil, err
	}
	if err := programBoard(q, window); err != nil {
		return nil, fmt.Errorf("program the board: %w", err)
	}
	files := make(map[string][]byte, len(directory))
	for name, item := range directory {
		if files[name], err = fwCfgRead(q, item.selector, item.size); err != nil {
			return nil, fmt.Errorf("read %q: %w", name, err)
		}
	}
	return files, nil
}

// fwCfgItem is one entry of the directory.
type fwCfgItem struct {
	selector uint16
	size     int
}

func readFwCfgDirectory(q *qtest) (map[string]fwCfgItem, error) {
	head, err := fwCfgRead(q, fwCfgDirectory, 4)
	if err != nil {
		return nil, err
	}
	count := int(binary.BigEndian.Uint32(head))
	if count > maxFwCfgFiles {
		return nil, fmt.Errorf("it claims %d files", count)
	}
	data, err := fwCfgRead(q, fwCfgDirectory, 4+count*fwCfgEntrySize)
	if err != nil {
		return nil, err
	}
	directory := make(map[string]fwCfgItem, count)
	for entry := range chunks(data[4:], fwCfgEntrySize) {
		size := binary.BigEndian.Uint32(entry[0:4])
		name, _, _ := strings.Cut(string(entry[8:]), "\x00")
		if size > maxFwCfgFile {
			return nil, fmt.Errorf("file %q claims %d bytes", name, size)
		}
		directory[name] = fwCfgItem{selector: binary.BigEndian.Uint16(entry[4:6]), size: int(size)}
	}
	return directory, nil
}

func chunks(data []byte, size int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for ; len(data) >= size; data = data[size:] {
			if !yield(data[:size]) {
				return
			}
		}
	}
}

// fwCfgRead reads the beginning of one item through the device's DMA interface.
func fwCfgRead(q *qtest, selector uint16, size int) ([]byte, error) {
	var request bytes.Buffer
	_ = binary.Write(&request, binary.BigEndian, struct {
		Control, Length uint32
		Address         uint64
	}{uint32(selector)<<16 | fwCfgDMASelect | fwCfgDMARead, uint32(size), fwCfgDataAddress})
	if err := q.write(fwCfgRequestAddress, request.Bytes()); err != nil {
		return nil, err
	}
	if err := q.outl(fwCfgDMAHigh, 0); err != nil {
		return nil, err
	}
	// The register is big-endian on a little-endian bus.
	if err := q.outl(fwCfgDMALow, swap32(fwCfgRequestAddress)); err != nil {
		return nil, err
	}
	status, err := q.read(fwCfgRequestAddress, 4)
	if err != nil {
		return nil, err
	}
	if s := binary.BigEndian.Uint32(status); s&fwCfgDMAError != 0 || s != 0 {
		return nil, errors.New("QEMU refused the transfer")
	}
	return q.read(fwCfgDataAddress, size)
}

func swap32(v uint32) uint32 {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	return binary.BigEndian.Uint32(b[:])
}
