// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Dir is the folder of a local cluster.
type Dir string

// Files of the folder that are the supervisor's.
const (
	specFile = "cluster.json"
	lockFile = "supervisor.lock"
	// commandLockFile is the lock of the command that makes the cluster.
	commandLockFile = "command.lock"
	pidFile         = "supervisor.pid"
	logFile         = "supervisor.log"
	socketFile      = "control.sock"
)

// path is that of a file in the folder.
func (d Dir) path(name ...string) string {
	return filepath.Join(append([]string{string(d)}, name...)...)
}

// AuthorityFolder is where the authority that certifies the machines' TPMs is, and
// AuthorityFile is its certificate. It appears with the first machine's TPM.
func (d Dir) AuthorityFolder() string { return d.path("authority") }

// AuthorityFile is relative to the folder.
const AuthorityFile = "authority/issuercert.pem"

// MachineFolder has a machine's TPM, variable store, state disk and console.
func (d Dir) MachineFolder(name string) string { return d.path("machines", name) }

// ConsoleFile is what a machine printed on its console, and OlderConsoleFile what it
// printed before that.
func (d Dir) ConsoleFile(name string) string {
	return filepath.Join(d.MachineFolder(name), "console.log")
}

// OlderConsoleFile is what ConsoleFile was until it grew too large.
func (d Dir) OlderConsoleFile(name string) string { return d.ConsoleFile(name) + ".1" }

// LogFile is what the supervisor itself says.
func (d Dir) LogFile() string { return d.path(logFile) }

// Presence is what there is of a cluster in a folder.
type Presence int

// What there can be.
const (
	// Absent: no folder, or an empty one.
	Absent Presence = iota
	// Unfinished: a command that began to make a cluster was ended.
	Unfinished
	// Present: a cluster, running or not.
	Present
)

// ErrForeign says that a folder is in use for something else.
var ErrForeign = errors.New("the folder has something else in it than a local cluster")

// Presence looks into the folder. Its errors are ErrForeign, or the system's.
func (d Dir) Presence() (Presence, error) {
	entries, err := os.ReadDir(string(d))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return Absent, nil
	}
	if err != nil {
		return Absent, err
	}
	if _, err := os.Lstat(d.path(lockFile)); err != nil {
		return Absent, fmt.Errorf("%s: %w", d, ErrForeign)
	}
	if _, err := os.Lstat(d.path(specFile)); err != nil {
		return Unfinished, nil
	}
	return Present, nil
}

// Make makes the folder, and marks it as that of a cluster.
func (d Dir) Make() error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(d.path(lockFile), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// WriteSpec says what the cluster consists of. The folder is that of a cluster then.
func (d Dir) WriteSpec(s *Spec) error {
	data, err := s.Marshal()
	if err != nil {
		return err
	}
	temporary := d.path(specFile + ".new")
	if err := os.WriteFile(temporary, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, d.path(specFile))
}

// Spec reads what the cluster consists of.
func (d Dir) Spec() (*Spec, error) {
	data, err := os.ReadFile(d.path(specFile))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSpecSize {
		return nil, fmt.Errorf("%s: more than %d bytes", d.path(specFile), maxSpecSize)
	}
	return ParseSpec(data)
}

// errLocked says that a supervisor runs.
var errLocked = errors.New("the cluster's supervisor is running")

// lock takes the folder for a supervisor, or for its removal. It never makes the file: a
// folder that was removed meanwhile stays removed.
func (d Dir) lock() (unlock func(), err error) {
	f, err := os.OpenFile(d.path(lockFile), os.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, fmt.Errorf("lock %s: %w", d.path(lockFile), err)
	}
	// The file may have been removed between the two calls.
	held, heldErr := f.Stat()
	named, namedErr := os.Stat(d.path(lockFile))
	if heldErr != nil || namedErr != nil || !os.SameFile(held, named) {
		f.Close()
		return nil, fs.ErrNotExist
	}
	return func() { f.Close() }, nil
}

// Running says whether a supervisor has the folder.
func (d Dir) Running() bool {
	unlock, err := d.lock()
	if err == nil {
		unlock()
	}
	return errors.Is(err, errLocked)
}

// Remove removes the folder of a cluster that nothing runs of.
func (d Dir) Remove() error {
	p, err := d.Presence()
	if err != nil || p == Absent {
		return err
	}
	unlock, err := d.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return os.RemoveAll(string(d))
}

// RemoveMachine removes what a machine left that is not in the spec any more.
func (d Dir) RemoveMachine(name string) error {
	return os.RemoveAll(d.MachineFolder(name))
}

// LockCommand takes the folder for a command that changes what it consists of. The
// error is ErrBusy while another has it.
func (d Dir) LockCommand() (unlock func(), err error) {
	f, err := os.OpenFile(d.path(commandLockFile), os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrBusy
		}
		return nil, err
	}
	return func() { f.Close() }, nil
}

// ErrBusy says that another command is at work on the cluster.
var ErrBusy = errors.New("another command is at work on this cluster")
