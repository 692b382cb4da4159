// SPDX-License-Identifier: Apache-2.0

package install

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Errors of Install.
var (
	// ErrBusy says that another Install is at work below the same root.
	ErrBusy = errors.New("another installation is at work")
	// ErrProgram says that the set contradicts itself, whatever the sources are.
	ErrProgram = errors.New("the image that the set names has another file in the program's place")
	// ErrNoSources says that something is to be fetched and there is nowhere to fetch it from.
	ErrNoSources = errors.New("nowhere to fetch components from: no sources")
)

// Why a source failed, in the chain of a SourceError's Err.
var (
	// ErrMissing says that a source has not got what it was asked for.
	ErrMissing = errors.New("it has no such content")
	// ErrStatus says that a source answered with an error.
	ErrStatus = errors.New("it answered with an error")
	// ErrContent says that a source sent something else.
	ErrContent = errors.New("it sent other content than the digest's")
	// ErrSize says that a source announced or sent more or less than there is.
	ErrSize = errors.New("it has content of another size")
	// ErrTruncated says that a source ended early.
	ErrTruncated = errors.New("it ended early")
	// ErrStalled says that a source sent too little for too long.
	ErrStalled = errors.New("it stalled")
	// ErrUnreachable says that no connection came about.
	ErrUnreachable = errors.New("it cannot be reached")
	// ErrRedirect says that a source sent the request around in circles, or to where requests are not made.
	ErrRedirect = errors.New("it redirects too far")
)

// FetchError says that something could be had from none of the sources.
type FetchError struct {
	// Image is the name of the image that the content belongs to.
	Image  string
	Digest string
	// Sources are the failures, one of each source, in the order in which they were asked.
	Sources []*SourceError
}

// SourceError is the failure of one source.
type SourceError struct {
	Source string
	Err    error
}

func (e *FetchError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "component %s: no source has %s:", e.Image, e.Digest)
	for _, s := range e.Sources {
		b.WriteString("\n  " + s.Error())
	}
	b.WriteString("\ncheck that the sources can be reached and hold this component set; what was fetched is kept")
	return b.String()
}

// Unwrap gives the sources' failures.
func (e *FetchError) Unwrap() []error {
	var out []error
	for _, s := range e.Sources {
		out = append(out, s)
	}
	return out
}

func (e *SourceError) Error() string { return fmt.Sprintf("%s: %v", e.Source, e.Err) }
func (e *SourceError) Unwrap() error { return e.Err }

// SpaceError says that the node's disk is too small for the set.
type SpaceError struct {
	Dir string
	// Need and Free are bytes. They are 0 if the disk turned out to be full while it was written to.
	Need, Free int64
	Err        error
}

func (e *SpaceError) Error() string {
	if e.Need > 0 {
		return fmt.Sprintf("not enough space in %s: the components need %d MiB more, %d MiB are free: use a larger state disk", e.Dir, e.Need>>20, e.Free>>20)
	}
	return fmt.Sprintf("no space left in %s: use a larger state disk, or free some: %v", e.Dir, e.Err)
}

func (e *SpaceError) Unwrap() error { return e.Err }

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
