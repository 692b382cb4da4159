// SPDX-License-Identifier: Apache-2.0

package verity

import (
	"bytes"
	"crypto/sha256"
	"strings"
	"testing"
)

// TestBuildTwoLevels computes the tree of 129 blocks, one more than a block of hashes holds, by hand.
func TestBuildTwoLevels(t *testing.T) {
	data := make([]byte, 129*BlockSize)
	for i := range data {
		data[i] = byte(i / BlockSize)
	}
	var leaves []byte
	for block := range 129 {
		digest := sha256.Sum256(data[block*BlockSize : (block+1)*BlockSize])
		leaves = append(leaves, digest[:]...)
	}
	leaves = append(leaves, make([]byte, 2*BlockSize-len(leaves))...)
	first, second := sha256.Sum256(leaves[:BlockSize]), sha256.Sum256(leaves[BlockSize:])
	top := append(append(first[:], second[:]...), make([]byte, BlockSize-64)...)

	tree, hash, blocks, err := Build(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if blocks != 129 {
		t.Errorf("%d blocks, want 129", blocks)
	}
	if want := RootHash(sha256.Sum256(top)); hash != want {
		t.Errorf("root hash %s, want %s", hash, want)
	}
	if want := append(top, leaves...); !bytes.Equal(tree[BlockSize:], want) {
		t.Error("levels of the tree are not: top first, then leaves")
	}
	if !bytes.HasPrefix(tree, []byte("verity\x00\x00\x01\x00\x00\x00")) {
		t.Errorf("superblock begins with %q", tree[:12])
	}
}

func TestBuildRefuses(t *testing.T) {
	for _, test := range []struct {
		name, reason string
		size         int
	}{
		{"nothing", "not between", 0},
		{"one block", "not between", BlockSize},
		{"incomplete block", "incomplete block", 2*BlockSize + 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, _, err := Build(bytes.NewReader(make([]byte, test.size)))
			if err == nil || !strings.Contains(err.Error(), test.reason) {
				t.Errorf("error is %v, want one about %q", err, test.reason)
			}
		})
	}
}

func TestRootHash(t *testing.T) {
	const text = "00112233445566778899aabbccddeeff0f1e2d3c4b5a69788796a5b4c3d2e1f0"
	hash, err := ParseRootHash(text)
	if err != nil {
		t.Fatal(err)
	}
	data, tree := hash.PartitionIDs()
	if data.String() != "00112233-4455-6677-8899-aabbccddeeff" || tree.String() != "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0" {
		t.Errorf("partitions %s and %s", data, tree)
	}
	want := "1 254:2 254:3 4096 4096 77 1 sha256 " + text + " -"
	if got := Table(hash, 77, "254:2", "254:3"); got != want {
		t.Errorf("table %q, want %q", got, want)
	}
	for _, wrong := range []string{"", text[:62], text + "00", strings.ToUpper(text), "zz" + text[2:]} {
		if _, err := ParseRootHash(wrong); err == nil {
			t.Errorf("root hash %q is accepted", wrong)
		}
	}
}
