// SPDX-License-Identifier: Apache-2.0

package verity

import (
	"encoding/json"
	"fmt"
)

// Root describes a root file system to the later steps of a build.
type Root struct {
	// Hash is the root hash in hexadecimal digits.
	Hash string `json:"rootHash"`
	// Blocks is the number of data blocks.
	Blocks uint64 `json:"blocks"`
}

// ParseRoot reads the JSON form.
func ParseRoot(raw []byte) (RootHash, uint64, error) {
	var root Root
	if err := json.Unmarshal(raw, &root); err != nil {
		return RootHash{}, 0, fmt.Errorf("description of the root: %w", err)
	}
	hash, err := ParseRootHash(root.Hash)
	return hash, root.Blocks, err
}
