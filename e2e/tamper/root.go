// SPDX-License-Identifier: Apache-2.0

package tamper

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/constellation-os/constellation/image/verity"
	"github.com/constellation-os/constellation/measurements/gpt"
)

// RebuildRoot flips one bit of the root file system and then does what the build
// does after it: a new hash tree, a new root hash in the command line and in the
// partitions' identifiers. The result is a sound image of another root.
func (d *Disk) RebuildRoot(offset int64) error {
	if err := d.Root(offset); err != nil {
		return err
	}
	commandLine, _, _, err := d.section(".cmdline")
	if err != nil {
		return err
	}
	oldHash, err := parameter(string(commandLine), verity.HashParameter)
	if err != nil {
		return err
	}
	count, err := parameter(string(commandLine), verity.BlocksParameter)
	if err != nil {
		return err
	}
	blocks, err := strconv.ParseInt(count, 10, 64)
	if err != nil {
		return err
	}
	root, err := d.partition(gpt.TypeRoot)
	if err != nil {
		return err
	}
	tree, hash, _, err := verity.Build(io.NewSectionReader(d.file, root.Offset(), blocks*verity.BlockSize))
	if err != nil {
		return err
	}
	treePartition, err := d.partition(gpt.TypeRootVerity)
	if err != nil {
		return err
	}
	if _, err := d.file.WriteAt(tree, treePartition.Offset()); err != nil {
		return err
	}
	dataID, treeID := hash.PartitionIDs()
	root.ID, treePartition.ID = gpt.FromUUID(dataID), gpt.FromUUID(treeID)
	if err := d.writeTable(); err != nil {
		return err
	}
	return d.CommandLine(oldHash, hash.String())
}

func parameter(commandLine, name string) (string, error) {
	for _, word := range strings.Fields(strings.TrimRight(commandLine, "\x00")) {
		if value, ok := strings.CutPrefix(word, name+"="); ok {
			return value, nil
		}
	}
	return "", fmt.Errorf("the command line has no %s", name)
}
