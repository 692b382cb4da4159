// SPDX-License-Identifier: Apache-2.0

// Package tamper changes copies of disk images and of firmware variable stores
// in the ways an attacker with access to them would. It is for tests alone;
// nothing that is shipped imports it.
package tamper

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/constellation-os/constellation/measurements/esp"
	"github.com/constellation-os/constellation/measurements/gpt"
	"github.com/constellation-os/constellation/measurements/pe"
)

// bootFile is the program that the firmware starts.
const bootFile = "EFI/BOOT/BOOTX64.EFI"

// A Disk is a copy of a disk image, opened for changes.
type Disk struct {
	Path  string
	file  *os.File
	size  int64
	table *gpt.Table
}

// CopyDisk copies an image, leaving holes where there are any.
func CopyDisk(from, to string) (*Disk, error) {
	if err := CopySparse(from, to); err != nil {
		return nil, fmt.Errorf("copy the disk: %w", err)
	}
	f, err := os.OpenFile(to, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	table, err := gpt.Parse(f, info.Size())
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Disk{Path: to, file: f, size: info.Size(), table: table}, nil
}

// Close closes the copy.
func (d *Disk) Close() error { return d.file.Close() }

// CopySparse copies a file, leaving holes where there are any.
func CopySparse(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	for at := int64(0); at < info.Size(); {
		start, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // only a hole is left
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(in.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, start), io.NewSectionReader(in, start, end-start)); err != nil {
			return err
		}
		at = end
	}
	return out.Truncate(info.Size())
}

// partition returns the one partition of a type.
func (d *Disk) partition(kind gpt.GUID) (*gpt.Partition, error) {
	for i := range d.table.Partitions {
		if d.table.Partitions[i].Type == kind {
			return &d.table.Partitions[i], nil
		}
	}
	return nil, fmt.Errorf("the disk has no partition of type %v", kind)
}

// Root flips one bit of the root file system, at an offset within its partition.
func (d *Disk) Root(offset int64) error {
	p, err := d.partition(gpt.TypeRoot)
	if err != nil {
		return err
	}
	return d.flip(p.Offset() + offset)
}

// RootOffset is where the root's partition begins, in bytes.
func (d *Disk) RootOffset() (int64, error) {
	p, err := d.partition(gpt.TypeRoot)
	if err != nil {
		return 0, err
	}
	return p.Offset(), nil
}

// Tree flips one bit of the root's hash tree, at an offset within its partition.
func (d *Disk) Tree(offset int64) error {
	p, err := d.partition(gpt.TypeRootVerity)
	if err != nil {
		return err
	}
	return d.flip(p.Offset() + offset)
}

func (d *Disk) flip(at int64) error {
	b := make([]byte, 1)
	if _, err := d.file.ReadAt(b, at); err != nil {
		return err
	}
	b[0] ^= 1
	_, err := d.file.WriteAt(b, at)
	return err
}

// MoveTree moves the verity tree's partition towards the end of the disk by one
// sector, with its content.
func (d *Disk) MoveTree() error {
	p, err := d.partition(gpt.TypeRootVerity)
	if err != nil {
		return err
	}
	content := make([]byte, p.Size())
	if _, err := d.file.ReadAt(content, p.Offset()); err != nil {
		return err
	}
	p.FirstLBA++
	p.LastLBA++
	if _, err := d.file.WriteAt(content, p.Offset()); err != nil {
		return err
	}
	return d.writeTable()
}

// RenameRoot changes the name of the root's partition.
func (d *Disk) RenameRoot(name string) error {
	p, err := d.partition(gpt.TypeRoot)
	if err != nil {
		return err
	}
	p.Name = name
	return d.writeTable()
}

func (d *Disk) writeTable() error {
	head, tail, err := d.table.Encode(d.size)
	if err != nil {
		return err
	}
	if _, err := d.file.WriteAt(head, 0); err != nil {
		return err
	}
	_, err = d.file.WriteAt(tail, d.size-int64(len(tail)))
	return err
}

// AddFile puts a file on the EFI system partition, with mtools. path begins with
// a slash.
func (d *Disk) AddFile(path string, content []byte) error {
	p, err := d.partition(gpt.TypeESP)
	if err != nil {
		return err
	}
	image := fmt.Sprintf("%s@@%d", d.Path, p.Offset())
	for i, c := range path {
		if c == '/' && i > 0 {
			// A folder that exists already is no error worth telling.
			_ = mtools("mmd", nil, "-D", "s", "-i", image, "::"+path[:i])
		}
	}
	return mtools("mcopy", content, "-i", image, "-", "::"+path)
}

func mtools(command string, input []byte, args ...string) error {
	program := os.Getenv("MTOOLS")
	if program == "" {
		program = "mtools"
	}
	cmd := exec.Command(program, append([]string{"-c", command}, args...)...)
	cmd.Stdin = bytes.NewReader(input)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, output)
	}
	return nil
}

// uki reads the boot program and finds where on the disk it lies, in one piece.
func (d *Disk) uki() (content []byte, at int64, err error) {
	p, err := d.partition(gpt.TypeESP)
	if err != nil {
		return nil, 0, err
	}
	partition := make([]byte, p.Size())
	if _, err := d.file.ReadAt(partition, p.Offset()); err != nil {
		return nil, 0, err
	}
	fs, err := esp.Open(bytes.NewReader(partition), p.Size())
	if err != nil {
		return nil, 0, err
	}
	if content, err = fs.ReadFile(bootFile); err != nil {
		return nil, 0, err
	}
	offset := bytes.Index(partition, content)
	if offset < 0 {
		return nil, 0, errors.New("the boot program is not in one piece on the disk")
	}
	return content, p.Offset() + int64(offset), nil
}

// section finds a section of the boot program on the disk.
func (d *Disk) section(name string) (content []byte, s pe.Section, uki int64, err error) {
	program, at, err := d.uki()
	if err != nil {
		return nil, s, 0, err
	}
	image, err := pe.Parse(program)
	if err != nil {
		return nil, s, 0, err
	}
	for _, s := range image.Sections {
		if s.Name == name {
			content, err := image.Content(s)
			return content, s, at, err
		}
	}
	return nil, s, 0, fmt.Errorf("the boot program has no section %s", name)
}
