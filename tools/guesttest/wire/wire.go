// SPDX-License-Identifier: Apache-2.0

// Package wire is what the launcher of a guest test and the guest's first program say to each other: a request, packed
// into the guest's root, and frames on a virtio-serial port in return.
package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// Paths in the guest.
const (
	// RequestPath holds the [Request] as JSON.
	RequestPath = "test/request.json"
	// BinaryPath is the test.
	BinaryPath = "test/binary"
	// Runfiles holds the files that the test needs.
	Runfiles = "test/runfiles"
	// Returned is where the test leaves files for the host.
	Returned = "test/returned"
	// Modules lists the kernel modules to load, one file name a line, in order.
	Modules = "modules/load"
	// ModuleDirectory holds them.
	ModuleDirectory = "modules"
)

// PortName names the virtio-serial port.
const PortName = "org.constellation-os.guesttest"

// Request says what to run.
type Request struct {
	Args      []string `json:"args"`
	Env       []string `json:"env"`
	Directory string   `json:"directory"`
}

// Type is a frame's type.
type Type byte

// The frames of a run: one Started, then Stdout and Stderr as they come, then for each returned file one File and any
// number of Data, then one Exit.
const (
	Started Type = iota + 1
	Stdout
	Stderr
	File // the path below Returned
	Data
	Exit   // the exit code, one byte
	Failed // why nothing could be run, for people
)

// MaxFrame is the largest content of a frame, in bytes.
const MaxFrame = 64 << 10

const headerSize = 5

// A Writer writes frames. It may be used from several goroutines.
type Writer struct {
	mu sync.Mutex
	w  io.Writer
}

// NewWriter makes a writer of frames.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Frame writes content as frames of one type, at least one.
func (w *Writer) Frame(t Type, content []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		part := content[:min(len(content), MaxFrame)]
		content = content[len(part):]
		frame := make([]byte, headerSize, headerSize+len(part))
		frame[0] = byte(t)
		binary.LittleEndian.PutUint32(frame[1:], uint32(len(part)))
		if _, err := w.w.Write(append(frame, part...)); err != nil {
			return fmt.Errorf("write to the host: %w", err)
		}
		if len(content) == 0 {
			return nil
		}
	}
}

// Stream is a stream of frames of one type.
func (w *Writer) Stream(t Type) io.Writer { return stream{w, t} }

type stream struct {
	w *Writer
	t Type
}

func (s stream) Write(p []byte) (int, error) { return len(p), s.w.Frame(s.t, p) }

// Read reads one frame.
func Read(r io.Reader) (Type, []byte, error) {
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(r, header); err != nil {
		return 0, nil, err
	}
	size := binary.LittleEndian.Uint32(header[1:])
	if size > MaxFrame {
		return 0, nil, fmt.Errorf("a frame of %d bytes", size)
	}
	content := make([]byte, size)
	if _, err := io.ReadFull(r, content); err != nil {
		return 0, nil, err
	}
	return Type(header[0]), content, nil
}

// SendFiles sends all regular files below a folder.
func (w *Writer) SendFiles(folder string) error {
	return filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := w.Frame(File, []byte(name)); err != nil {
			return err
		}
		_, err = io.Copy(w.Stream(Data), file)
		return err
	})
}
