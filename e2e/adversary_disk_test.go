// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/constellation-os/constellation/disk/luks2"
	"github.com/constellation-os/constellation/e2e/adversarytest"
	"github.com/constellation-os/constellation/e2e/tamper"
)

// controlPlaneHost is where the worker finds JoinService.
const controlPlaneHost = "10.77.0.10"

// stateDisk: the worker's state disk is changed, taken for another's, and put back to an
// older copy, each time while the worker is off. With its own disk it comes back.
func (a *adversary) stateDisk(t *testing.T) {
	path := filepath.Join(a.folder.MachineFolder(worker), "state.raw")
	older, newest := filepath.Join(t.TempDir(), "older.raw"), filepath.Join(t.TempDir(), "newest.raw")
	a.power(t, false)
	if err := tamper.CopySparse(path, older); err != nil {
		t.Fatal(err)
	}
	own := header(t, path)

	t.Run("V1 a header that was changed", func(t *testing.T) {
		mark := a.cluster.Audit.Mark()
		writeHeader(t, path, changed(t, own))
		a.comesBack(t, "This node cannot proceed: ", "this cluster's key does not fit the state disk")
		a.cluster.Audit.Await(t, mark, adversarytest.Record{"msg": "rejoin-ticket", "verdict": "granted", "name": worker})
		a.cluster.Audit.Never(t, mark, adversarytest.Record{"msg": "generation"})
		a.power(t, false)
		if got := header(t, path); !bytes.Equal(got, changed(t, own)) {
			t.Error("the machine wrote to the disk")
		}
	})
	// What of a disk is read before JoinService is asked for its key.
	t.Run("V17 the control plane's disk", func(t *testing.T) {
		mark := a.cluster.Audit.Mark()
		writeHeader(t, path, header(t, filepath.Join(a.folder.MachineFolder(controlPlane), "state.raw")))
		says := "node " + worker + " has disk " + a.cluster.Worker.Disk + ", not " + a.cluster.ControlPlane.Disk
		a.comesBack(t, controlPlaneHost+" refuses: disk: "+says)
		a.cluster.Audit.Await(t, mark, adversarytest.Record{"msg": "rejoin-ticket", "verdict": "refused", "reason": "disk", "error": says, "name": worker})
		a.cluster.Audit.Never(t, mark, adversarytest.Record{"verdict": "granted"})
		a.power(t, false)
	})
	writeHeader(t, path, own)
	t.Run("its own", func(t *testing.T) { a.returns(t) })
	a.power(t, false)
	if err := errors.Join(os.Rename(path, newest), tamper.CopySparse(older, path)); err != nil {
		t.Fatal(err)
	}
	t.Run("V14 an older copy", func(t *testing.T) {
		mark := a.cluster.Audit.Mark()
		a.comesBack(t, controlPlaneHost+" refuses: rolled-back: ", "Somebody has put back an older copy of the disk.")
		a.cluster.Audit.Await(t, mark, adversarytest.Record{"msg": "generation", "verdict": "refused", "reason": "rolled-back", "name": worker})
		a.cluster.Audit.Never(t, mark, adversarytest.Record{"msg": "generation", "verdict": "granted"})
		a.power(t, false)
	})
	if err := os.Rename(newest, path); err != nil {
		t.Fatal(err)
	}
	t.Run("the newest copy", func(t *testing.T) { a.returns(t) })
}

// comesBack switches the worker on, and wants its console to show all of the texts.
func (a *adversary) comesBack(t *testing.T, texts ...string) {
	t.Helper()
	path := a.folder.ConsoleFile(worker)
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	a.power(t, true)
	for began := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		shown := read(t, path)
		shown = shown[min(int(before.Size()), len(shown)):]
		lacks := ""
		for _, text := range texts {
			if !bytes.Contains(shown, []byte(text)) {
				lacks = text
			}
		}
		if lacks == "" {
			return
		}
		if time.Since(began) > bootDeadline+said {
			t.Fatalf("the console does not show %q, but at its end:\n%s", lacks, shown[max(0, len(shown)-8<<10):])
		}
	}
}

// returns switches the worker on, and wants it to be a node again.
func (a *adversary) returns(t *testing.T) {
	t.Helper()
	before, mark := a.boots(t), a.cluster.Audit.Mark()
	a.power(t, true)
	a.awaitNodes(t, map[string]string{worker: before[worker]}, controlPlane, worker)
	a.cluster.Audit.Await(t, mark, adversarytest.Record{"msg": "generation", "verdict": "granted", "name": worker})
}

// header is all that is read of a disk before it is opened.
func header(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, luks2.AreaSize)
	if _, err := io.ReadFull(f, data); err != nil {
		t.Fatal(err)
	}
	return data
}

func writeHeader(t *testing.T, path string, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(data, 0)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// changed is a header of the same disk that is whole, and has another volume key's digest:
// only its MAC says that it is not the cluster's.
func changed(t *testing.T, area []byte) []byte {
	t.Helper()
	out := bytes.Clone(area)
	for _, which := range []luks2.Copy{luks2.Primary, luks2.Secondary} {
		at := which.Offset()
		h, err := luks2.Parse(area[at:at+luks2.HeaderSize], which)
		if err != nil {
			t.Fatal(err)
		}
		h.Digest.Sum[0] ^= 1
		copy(out[at:], h.Encode(which))
	}
	return out
}
