// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// FileInfo describes one file of the root for people and programs that look for a difference: the SBOM and the
// comparison of two builds.
type FileInfo struct {
	// Path is absolute.
	Path string `json:"path"`
	// Type is "file", "directory" or "link".
	Type string `json:"type"`
	// Mode is in octal digits.
	Mode string `json:"mode"`
	// Owner is "uid:gid".
	Owner string `json:"owner"`
	// Size is in bytes, of files only.
	Size int `json:"size,omitempty"`
	// SHA256 is the hash of a file's content in hexadecimal digits.
	SHA256 string `json:"sha256,omitempty"`
	// Target is where a link points.
	Target string `json:"target,omitempty"`
	// Origin is the Debian package, or the part of this repository, that the file comes from.
	Origin string `json:"origin"`
}

// Files describes the tree in path order.
func (t Tree) Files() []FileInfo {
	var files []FileInfo
	for _, p := range t.Paths() {
		node := t[p]
		info := FileInfo{
			Path: "/" + p, Mode: fmt.Sprintf("%04o", node.Mode), Owner: fmt.Sprintf("%d:%d", node.UID, node.GID),
			Target: node.Target, Origin: node.Origin,
		}
		switch node.Type {
		case tar.TypeDir:
			info.Type = "directory"
		case tar.TypeSymlink:
			info.Type = "link"
		default:
			digest := sha256.Sum256(node.Content)
			info.Type, info.Size, info.SHA256 = "file", len(node.Content), hex.EncodeToString(digest[:])
		}
		files = append(files, info)
	}
	return files
}
