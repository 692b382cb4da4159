// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"fmt"

	"github.com/constellation-os/constellation/disk/luks2"
)

// What a caller may act on. Headers that are refused are [*luks2.Error]: see [luks2.ReasonOf].
var (
	// ErrNotOurs says that the disk has no header of ours to open: it is fresh.
	ErrNotOurs = errors.New("the disk was never formatted as a state disk, or the formatting never finished: format it")
	// ErrHoldsSomething says that the disk is not blank and Format was not told to take it.
	ErrHoldsSomething = errors.New("the disk holds something else")
	// ErrTooSmall says that the disk is below MinSize.
	ErrTooSmall = fmt.Errorf("the disk is too small: a state disk has at least %d MiB", MinSize>>20)
	// ErrActive says that a state disk is open already.
	ErrActive = errors.New("a state disk is open already")
)

// RollbackError says that a disk is not of the generation that the witness knows: an older copy was put in its place,
// or the witness forgot.
type RollbackError struct {
	UUID string
	// Disk is the disk's generation, Known the one that the witness knows.
	Disk, Known Generation
}

func (e *RollbackError) Error() string {
	return fmt.Sprintf("the state disk %s %s. "+
		"If it was restored on purpose, tell the cluster to accept its generation; else format it and join as a new node",
		e.UUID, e.finding())
}

// finding says which of the two is behind.
func (e *RollbackError) finding() string {
	disk, known := e.Disk.Number, e.Known.Number
	switch {
	case e.Known == luks2.None:
		return fmt.Sprintf("is of generation %d, and the cluster knows nothing of it", disk)
	case disk < known:
		return fmt.Sprintf("is an older copy: it is of generation %d, the cluster knows generation %d", disk, known)
	case disk > known:
		return fmt.Sprintf("is newer than what the cluster knows: it is of generation %d, the cluster knows generation %d", disk, known)
	}
	return fmt.Sprintf("is another copy: it is of generation %d, but not of the one of that number that the cluster knows", disk)
}

// Generation is a version of a disk's content.
type Generation = luks2.Generation
