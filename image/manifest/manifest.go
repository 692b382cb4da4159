// SPDX-License-Identifier: Apache-2.0

// Package manifest describes an image for those who fetch, compare or boot it: what it is called, what it starts
// with, and the hash of every artifact.
//
// What it says about the unified kernel image is read out of that image, not repeated from the build's inputs.
//
// Not guaranteed: authenticity. A manifest is as trustworthy as the way on which it came.
package manifest

import (
	"bytes"
	"crypto/sha256"
	"debug/pe"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Version is the version of the JSON form.
const Version = 1

// Manifest is the description of an image.
type Manifest struct {
	Version int   `json:"version"`
	Image   Image `json:"image"`
	// KernelRelease is what uname -r prints.
	KernelRelease string `json:"kernelRelease"`
	// CommandLine is the measured kernel command line.
	CommandLine string `json:"commandLine"`
	// RootHash is the verity root hash in hexadecimal digits.
	RootHash string `json:"rootHash"`
	// PackageLock is the SHA-256 of the lock of the Debian packages.
	PackageLock string `json:"packageLock"`
	// Artifacts are the files that belong to the image, this one apart.
	Artifacts []Artifact `json:"artifacts"`
}

// Image says what an image is called.
type Image struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Flavour string `json:"flavour"`
}

// Artifact is one file.
type Artifact struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// ErrUKI says that the unified kernel image lacks something.
var ErrUKI = errors.New("not a unified kernel image")

// ReadUKI fills in what the unified kernel image says about itself.
func (m *Manifest) ReadUKI(uki io.ReaderAt) error {
	file, err := pe.NewFile(uki)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUKI, err)
	}
	defer file.Close()
	section := func(name string) (string, error) {
		s := file.Section(name)
		if s == nil {
			return "", fmt.Errorf("%w: no section %s", ErrUKI, name)
		}
		data, err := s.Data()
		if err != nil {
			return "", fmt.Errorf("%w: section %s: %w", ErrUKI, name, err)
		}
		return string(data[:min(len(data), int(s.VirtualSize))]), nil
	}
	if m.CommandLine, err = section(".cmdline"); err != nil {
		return err
	}
	if m.KernelRelease, err = section(".uname"); err != nil {
		return err
	}
	osRelease, err := section(".osrel")
	if err != nil {
		return err
	}
	for line := range strings.Lines(osRelease) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch value = strings.Trim(value, `"`); key {
		case "IMAGE_ID":
			m.Image.Name = value
		case "IMAGE_VERSION":
			m.Image.Version = value
		case "VARIANT_ID":
			m.Image.Flavour = value
		}
	}
	return nil
}

// Add hashes an artifact.
func (m *Manifest) Add(name string, content io.Reader) error {
	hash := sha256.New()
	size, err := io.Copy(hash, content)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	m.Artifacts = append(m.Artifacts, Artifact{Name: name, Size: size, SHA256: hex.EncodeToString(hash.Sum(nil))})
	return nil
}

// Encode returns the JSON form.
func (m *Manifest) Encode() ([]byte, error) {
	m.Version = Version
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(m)
	return out.Bytes(), err
}
