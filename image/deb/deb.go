// SPDX-License-Identifier: Apache-2.0

// Package deb reads the files of Debian binary packages without installing them.
//
// A .deb is an ar archive of three members: debian-binary (the format's version), control.tar.* (scripts and
// metadata, never read here) and data.tar.* (the files), see deb(5). No maintainer script is run, and none can be:
// the control member is skipped without being decompressed.
//
// Trust boundary: callers hand in packages whose SHA-256 the package lock names, so their content is the archive's.
// The reader still bounds what it decompresses and refuses paths that leave the root, because a mistake in a package
// must end in an error of the build and not in a strange image.
//
// Not guaranteed: the content of a package is not judged here; package rootfs decides what enters the image.
package deb

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Limits of one package. The largest package of the image, the kernel, has 110 MiB of files after decompression.
const (
	// MaxFiles is the number of entries that a package may have.
	MaxFiles = 50_000
	// MaxContent is the number of bytes that the files of a package may have together.
	MaxContent = 1 << 30
)

// File is one entry of a package.
type File struct {
	// Path is the cleaned path below the root, without a leading slash.
	Path string
	// Type is one of tar.TypeReg, tar.TypeDir, tar.TypeSymlink and tar.TypeLink.
	Type byte
	// Mode holds the permission, setuid, setgid and sticky bits.
	Mode int64
	// UID and GID are the numeric owner.
	UID, GID int
	// Target is where a symbolic link points, or the path below the root that a hard link shares.
	Target string
	// Content is what a regular file holds.
	Content []byte
}

// ErrFormat says that the input is not a Debian package of the supported format.
var ErrFormat = errors.New("not a Debian package")

// Read calls visit for each file of the package that keep wants, in the package's order. Files that keep refuses
// are not read into memory.
func Read(r io.Reader, keep func(path string) bool, visit func(File) error) error {
	// The decompressor asks for single bytes.
	name, data, err := dataMember(bufio.NewReaderSize(r, 1<<20))
	if err != nil {
		return err
	}
	plain, closer, err := decompress(name, data)
	if err != nil {
		return err
	}
	defer closer()
	return readTar(plain, keep, visit)
}

const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60
)

// dataMember walks the ar archive up to the member that holds the files.
func dataMember(r io.Reader) (string, io.Reader, error) {
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != arMagic {
		return "", nil, fmt.Errorf("%w: no ar magic", ErrFormat)
	}
	for first := true; ; first = false {
		header := make([]byte, arHeaderSize)
		if _, err := io.ReadFull(r, header); err != nil {
			return "", nil, fmt.Errorf("%w: no data member", ErrFormat)
		}
		if header[58] != '`' || header[59] != '\n' {
			return "", nil, fmt.Errorf("%w: broken ar header", ErrFormat)
		}
		name := strings.TrimSuffix(strings.TrimRight(string(header[:16]), " "), "/")
		size, err := strconv.ParseInt(strings.TrimRight(string(header[48:58]), " "), 10, 64)
		if err != nil || size < 0 {
			return "", nil, fmt.Errorf("%w: broken size of member %q", ErrFormat, name)
		}
		body := io.LimitReader(r, size)
		switch {
		case first:
			version, err := io.ReadAll(io.LimitReader(body, 16))
			if err != nil || name != "debian-binary" || !bytes.HasPrefix(version, []byte("2.")) {
				return "", nil, fmt.Errorf("%w: first member %q is not debian-binary of version 2", ErrFormat, name)
			}
		case strings.HasPrefix(name, "data.tar"):
			return name, body, nil
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			return "", nil, fmt.Errorf("read member %q: %w", name, err)
		}
		if size%2 == 1 {
			if _, err := io.ReadFull(r, header[:1]); err != nil {
				return "", nil, fmt.Errorf("%w: truncated after member %q", ErrFormat, name)
			}
		}
	}
}

func decompress(name string, r io.Reader) (io.Reader, func(), error) {
	nop := func() {}
	switch strings.TrimPrefix(name, "data.tar") {
	case "":
		return r, nop, nil
	case ".gz":
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, fmt.Errorf("open %s: %w", name, err)
		}
		return z, nop, nil
	case ".xz":
		z, err := xz.ReaderConfig{DictCap: 1 << 20}.NewReader(r)
		if err != nil {
			return nil, nil, fmt.Errorf("open %s: %w", name, err)
		}
		return z, nop, nil
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(128<<20), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, fmt.Errorf("open %s: %w", name, err)
		}
		return z, z.Close, nil
	}
	return nil, nil, fmt.Errorf("%w: unknown compression of %q", ErrFormat, name)
}

func readTar(r io.Reader, keep func(string) bool, visit func(File) error) error {
	archive := tar.NewReader(r)
	var files int
	var content int64
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read data member: %w", err)
		}
		if files++; files > MaxFiles {
			return fmt.Errorf("package has more than %d files", MaxFiles)
		}
		name, err := cleanPath(header.Name)
		if err != nil {
			return err
		}
		if content += header.Size; header.Size < 0 || content > MaxContent {
			return fmt.Errorf("%s: package has more than %d bytes", name, int64(MaxContent))
		}
		if name == "." || !keep(name) {
			continue
		}
		file, err := toFile(name, header, archive)
		if err != nil {
			return err
		}
		if err := visit(file); err != nil {
			return err
		}
	}
}

func toFile(name string, header *tar.Header, r io.Reader) (File, error) {
	file := File{
		Path: name, Type: header.Typeflag, Mode: header.Mode & 0o7777,
		UID: header.Uid, GID: header.Gid,
	}
	switch header.Typeflag {
	case tar.TypeReg:
		file.Content = make([]byte, header.Size)
		if _, err := io.ReadFull(r, file.Content); err != nil {
			return File{}, fmt.Errorf("read %s: %w", name, err)
		}
	case tar.TypeDir:
	case tar.TypeSymlink:
		file.Target = header.Linkname
	case tar.TypeLink:
		target, err := cleanPath(header.Linkname)
		if err != nil {
			return File{}, err
		}
		file.Target = target
	default:
		return File{}, fmt.Errorf("%s: entries of type %q are not supported", name, header.Typeflag)
	}
	return file, nil
}

func cleanPath(name string) (string, error) {
	trimmed := strings.TrimPrefix(strings.TrimPrefix(name, "./"), "/")
	if trimmed == "" {
		return ".", nil
	}
	clean := path.Clean(trimmed)
	if clean == ".." || strings.HasPrefix(clean, "../") || strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("path %q leaves the root", name)
	}
	return clean, nil
}
