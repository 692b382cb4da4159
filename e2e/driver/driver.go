// SPDX-License-Identifier: Apache-2.0

// Package driver lets a test have a machine do something: the flavour of the image in this folder differs from
// //image:qemu by one service, which takes requests on a virtio-serial port and does them as root. No other image has it.
//
// On the port each request and each response is one line of JSON, one after the other.
package driver

import (
	"github.com/constellation-os/constellation/disk"
)

// Port is the name of the virtio-serial port.
const Port = "org.constellation-os.driver"

// Request is one thing to do: the field that is set says which.
type Request struct {
	// Run is a program of the image with its arguments.
	Run []string `json:"run,omitempty"`
	// Read is a file, List a folder, Write and Make are a file and a folder to make.
	Read  string `json:"read,omitempty"`
	List  string `json:"list,omitempty"`
	Write string `json:"write,omitempty"`
	Make  string `json:"make,omitempty"`
	// Content is what to write.
	Content []byte `json:"content,omitempty"`
	// Disk is a call of the diskmapper.
	Disk *DiskCall `json:"disk,omitempty"`
}

// DiskCall is a call of the diskmapper, on its socket.
type DiskCall struct {
	// Method is Inspect, Open, Rekey, Grow or Status.
	Method string `json:"method"`
	Key    []byte `json:"key,omitempty"`
	NewKey []byte `json:"new_key,omitempty"`
	// Format is the name that Open shall give to the disk, if it is to format it; Take is to take what is not fresh.
	Format string `json:"format,omitempty"`
	Take   bool   `json:"take,omitempty"`
	// Known is what the cluster knows of the disk's generation; without it nobody knows.
	Known *disk.Generation `json:"known,omitempty"`
}

// Response says what came of a request.
type Response struct {
	// Output is of the program, of both its streams, or the content of the file.
	Output []byte `json:"output,omitempty"`
	// Entries are the names in the folder.
	Entries []string `json:"entries,omitempty"`
	// Disk is set for calls of the diskmapper.
	Disk *DiskResult `json:"disk,omitempty"`
	// Error is empty if all went well. A program's exit code is an error.
	Error string `json:"error,omitempty"`
}

// DiskResult is the diskmapper's answer.
type DiskResult struct {
	// Kind, UUID, Device and Size are what Inspect, Open or Status say; Status of a closed disk says nothing.
	Kind   string `json:"kind,omitempty"`
	UUID   string `json:"uuid,omitempty"`
	Device string `json:"device,omitempty"`
	Size   int64  `json:"size,omitempty"`
	// Known is what the cluster knows now.
	Known *disk.Generation `json:"known,omitempty"`
	// Reason and HeaderReason are of an error's Problem.
	Reason       string `json:"reason,omitempty"`
	HeaderReason string `json:"header_reason,omitempty"`
}
