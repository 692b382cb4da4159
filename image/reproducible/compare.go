// SPDX-License-Identifier: Apache-2.0

// Package reproducible shows that the image depends on its inputs only: it compares the artifacts of two builds and
// says where they first differ, inside of the image if need be. Its test makes the second build, under circumstances
// as different from the first as one machine allows.
//
// It compares builds, whoever made them; it does not tell which of two different ones is the right one.
package reproducible

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"debug/pe"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/constellation-os/constellation/image/rootfs"
	"github.com/constellation-os/constellation/measurements/gpt"
)

// Difference is an artifact that two builds do not agree on.
type Difference struct {
	// Artifact is the file's path below the folder of the build.
	Artifact string
	// Where says what differs first, in terms of what the artifact holds.
	Where string
}

func (d Difference) String() string { return d.Artifact + ": " + d.Where }

// explainers finds the first difference inside of an artifact. They are in the order of cause and effect: a file of
// the root is part of the disk, and its hash of the kernel's command line.
var explainers = []struct {
	artifact string
	explain  func(a, b string) (string, error)
}{
	{"root.files.json", explainRoot},
	{"image.efi", explainUKI},
	{"disk.raw", explainDisk},
}

// Compare compares all files of the folders a and b. The first of the differences is the closest to the cause.
func Compare(a, b string) ([]Difference, error) {
	hashesA, err := hashes(a)
	if err != nil {
		return nil, err
	}
	hashesB, err := hashes(b)
	if err != nil {
		return nil, err
	}
	if len(hashesA) == 0 {
		return nil, fmt.Errorf("compare builds: %s holds no artifacts", a)
	}
	names := map[string]bool{}
	for name := range hashesA {
		names[name] = true
	}
	for name := range hashesB {
		names[name] = true
	}
	var differences []Difference
	for name := range names {
		switch hashA, hashB := hashesA[name], hashesB[name]; {
		case hashA == hashB:
		case hashB == "":
			differences = append(differences, Difference{name, "only the first build has it"})
		case hashA == "":
			differences = append(differences, Difference{name, "only the second build has it"})
		default:
			where, err := explain(filepath.Join(a, name), filepath.Join(b, name))
			if err != nil {
				return nil, fmt.Errorf("compare %s: %w", name, err)
			}
			differences = append(differences, Difference{name, where})
		}
	}
	slices.SortFunc(differences, func(a, b Difference) int {
		if a, b := rank(a.Artifact), rank(b.Artifact); a != b {
			return a - b
		}
		return strings.Compare(a.Artifact, b.Artifact)
	})
	return differences, nil
}

func rank(artifact string) int {
	for i, known := range explainers {
		if filepath.Base(artifact) == known.artifact {
			return i
		}
	}
	return len(explainers)
}

// hashes gives the SHA-256 of every file below a folder. Links are followed, since Bazel hands out links.
func hashes(folder string) (map[string]string, error) {
	folder, err := filepath.EvalSymlinks(folder)
	if err != nil {
		return nil, fmt.Errorf("read build: %w", err)
	}
	result := map[string]string{}
	err = filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
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
		hash := sha256.New()
		if _, err := io.Copy(hash, file); err != nil {
			return err
		}
		result[name] = hex.EncodeToString(hash.Sum(nil))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read build: %w", err)
	}
	return result, nil
}

func explain(a, b string) (string, error) {
	if i := rank(a); i < len(explainers) {
		// An artifact that cannot be read is explained by its bytes alone.
		if where, err := explainers[i].explain(a, b); err == nil {
			return where, nil
		}
	}
	return explainBytes(a, b)
}

// explainRoot names the first file of the root that differs.
func explainRoot(a, b string) (string, error) {
	filesA, err := readRoot(a)
	if err != nil {
		return "", err
	}
	filesB, err := readRoot(b)
	if err != nil {
		return "", err
	}
	for i := range max(len(filesA), len(filesB)) {
		switch {
		case i == len(filesB) || i < len(filesA) && filesA[i].Path < filesB[i].Path:
			return fmt.Sprintf("only the first build has %s (from %s)", filesA[i].Path, filesA[i].Origin), nil
		case i == len(filesA) || filesB[i].Path < filesA[i].Path:
			return fmt.Sprintf("only the second build has %s (from %s)", filesB[i].Path, filesB[i].Origin), nil
		case filesA[i] != filesB[i]:
			return fmt.Sprintf("%s (from %s) differs: %s in the first build, %s in the second",
				filesA[i].Path, filesA[i].Origin, describe(filesA[i]), describe(filesB[i])), nil
		}
	}
	return "", errors.New("the same files")
}

func readRoot(path string) ([]rootfs.FileInfo, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var files []rootfs.FileInfo
	if err := json.Unmarshal(data, &files); err != nil {
		return nil, err
	}
	slices.SortFunc(files, func(a, b rootfs.FileInfo) int { return strings.Compare(a.Path, b.Path) })
	return files, nil
}

func describe(file rootfs.FileInfo) string {
	text := fmt.Sprintf("%s %s %s", file.Type, file.Mode, file.Owner)
	switch {
	case file.Target != "":
		text += " to " + file.Target
	case file.SHA256 != "":
		text += fmt.Sprintf(" %d bytes %s", file.Size, file.SHA256)
	}
	return text
}

// explainUKI names the first section of the unified kernel image that differs.
func explainUKI(a, b string) (string, error) {
	imageA, err := pe.Open(a)
	if err != nil {
		return "", err
	}
	defer imageA.Close()
	imageB, err := pe.Open(b)
	if err != nil {
		return "", err
	}
	defer imageB.Close()
	if len(imageA.Sections) != len(imageB.Sections) {
		return fmt.Sprintf("%d sections in the first build, %d in the second", len(imageA.Sections), len(imageB.Sections)), nil
	}
	for i, section := range imageA.Sections {
		dataA, err := section.Data()
		if err != nil {
			return "", err
		}
		dataB, err := imageB.Sections[i].Data()
		if err != nil {
			return "", err
		}
		if !bytes.Equal(dataA, dataB) {
			return fmt.Sprintf("section %s differs from byte %d on", section.Name, commonPrefix(dataA, dataB)), nil
		}
	}
	return "", errors.New("the same sections")
}

func commonPrefix(a, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// explainDisk names the first partition that differs.
func explainDisk(a, b string) (string, error) {
	offset, err := firstDifference(a, b)
	if err != nil {
		return "", err
	}
	file, err := os.Open(a)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	table, err := gpt.Parse(file, info.Size())
	if err != nil {
		return "", err
	}
	for i, partition := range table.Partitions {
		if within := offset - partition.Offset(); within >= 0 && within < partition.Size() {
			return fmt.Sprintf("partition %d (%s) differs from byte %d on", i+1, partition.Name, within), nil
		}
	}
	return fmt.Sprintf("differs outside of the partitions, from byte %d on", offset), nil
}

func explainBytes(a, b string) (string, error) {
	offset, err := firstDifference(a, b)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("differs from byte %d on", offset), nil
}

// firstDifference returns the offset of the first byte that two different files do not share.
func firstDifference(a, b string) (int64, error) {
	fileA, err := os.Open(a)
	if err != nil {
		return 0, err
	}
	defer fileA.Close()
	fileB, err := os.Open(b)
	if err != nil {
		return 0, err
	}
	defer fileB.Close()
	readerA, readerB := bufio.NewReaderSize(fileA, 1<<20), bufio.NewReaderSize(fileB, 1<<20)
	for offset := int64(0); ; offset++ {
		byteA, errA := readerA.ReadByte()
		byteB, errB := readerB.ReadByte()
		switch {
		case errA != nil && errA != io.EOF:
			return 0, errA
		case errB != nil && errB != io.EOF:
			return 0, errB
		case errA == io.EOF && errB == io.EOF:
			return 0, errors.New("the same bytes")
		case byteA != byteB || errA != errB:
			return offset, nil
		}
	}
}
