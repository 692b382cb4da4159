// SPDX-License-Identifier: Apache-2.0

package diskmapper

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/disk/luks2"
	"github.com/constellation-os/constellation/services/api/diskmapper"
)

func TestFinder(t *testing.T) {
	file := func(content string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(content)} }
	for _, test := range []struct {
		name   string
		blocks fstest.MapFS
		want   string
		err    error
		detail string
	}{
		{"virtio", fstest.MapFS{"vda/size": file("1"), "vdb/serial": file("constellation-state")}, "/dev/vdb", nil, ""},
		{"NVMe", fstest.MapFS{"nvme0n1/device/serial": file("constellation-state \n")}, "/dev/nvme0n1", nil, ""},
		{"NVMe by two paths", fstest.MapFS{
			"nvme0n1/device/serial": file("constellation-state \n"), "nvme0n1/hidden": file("0\n"),
			"nvme0c0n1/device/serial": file("constellation-state \n"), "nvme0c0n1/hidden": file("1\n"),
			"nvme0c1n1/device/serial": file("constellation-state \n"), "nvme0c1n1/hidden": file("1\n"),
		}, "/dev/nvme0n1", nil, ""},
		{"SCSI", fstest.MapFS{"sda/device/vpd_pg80": file("\x00\x80\x00\x13constellation-state")}, "/dev/sda", nil, ""},
		{"none", fstest.MapFS{"vda/serial": file("boot")}, "", ErrNoDisk, `vda has "boot"`},
		{"no disk at all", fstest.MapFS{}, "", ErrNoDisk, "no disk has"},
		{"two", fstest.MapFS{"vdb/serial": file("constellation-state"), "vdc/serial": file("constellation-state")}, "", ErrSeveralDisks, "vdb and vdc"},
		{"another name that begins alike", fstest.MapFS{"vdb/serial": file("constellation-state2")}, "", ErrNoDisk, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := Finder{Blocks: test.blocks, Serial: Serial, Patience: time.Millisecond}
			got, err := f.Find(t.Context())
			if got != test.want || !errors.Is(err, test.err) || err != nil && !strings.Contains(err.Error(), test.detail) {
				t.Errorf("got %q, %v; want %q, %v, %q", got, err, test.want, test.err, test.detail)
			}
		})
	}
}

// lateFS has a disk from a moment on.
type lateFS struct {
	fstest.MapFS
	from time.Time
}

func (l lateFS) ReadDir(name string) ([]fs.DirEntry, error) {
	if time.Now().Before(l.from) {
		return nil, nil
	}
	return l.MapFS.ReadDir(name)
}

func TestFinderWaitsForTheDisk(t *testing.T) {
	blocks := lateFS{fstest.MapFS{"vdb/serial": &fstest.MapFile{Data: []byte("x")}}, time.Now().Add(100 * time.Millisecond)}
	f := Finder{Blocks: blocks, Serial: "x", Patience: time.Minute}
	if got, err := f.Find(t.Context()); got != "/dev/vdb" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestProblems(t *testing.T) {
	rollback := &disk.RollbackError{UUID: "u", Disk: disk.Generation{Number: 2, ID: "d"}, Known: disk.Generation{Number: 5, ID: "k"}}
	for _, test := range []struct {
		err    error
		code   codes.Code
		reason diskmapper.Problem_Reason
		header string
	}{
		{ErrNoDisk, codes.NotFound, diskmapper.Problem_REASON_NO_DISK, ""},
		{errBusy, codes.Unavailable, diskmapper.Problem_REASON_BUSY, ""},
		{disk.ErrActive, codes.FailedPrecondition, diskmapper.Problem_REASON_OPEN, ""},
		{fmt.Errorf("x: %w", disk.ErrNotOurs), codes.FailedPrecondition, diskmapper.Problem_REASON_FRESH, ""},
		{fmt.Errorf("%w: it is foreign", disk.ErrHoldsSomething), codes.FailedPrecondition, diskmapper.Problem_REASON_HOLDS_SOMETHING, ""},
		{disk.ErrTooSmall, codes.FailedPrecondition, diskmapper.Problem_REASON_TOO_SMALL, ""},
		{rollback, codes.Aborted, diskmapper.Problem_REASON_ROLLED_BACK, ""},
		{&luks2.Error{Reason: luks2.ReasonUnauthentic}, codes.PermissionDenied, diskmapper.Problem_REASON_HEADER, "unauthentic"},
		{&luks2.Error{Reason: luks2.ReasonCipher}, codes.DataLoss, diskmapper.Problem_REASON_HEADER, "cipher"},
		{requestError("x"), codes.InvalidArgument, diskmapper.Problem_REASON_REQUEST, ""},
		{errors.New("anything"), codes.Internal, diskmapper.Problem_REASON_UNSPECIFIED, ""},
	} {
		s := status.Convert(fail(test.err))
		if s.Code() != test.code || s.Message() != test.err.Error() || len(s.Details()) != 1 {
			t.Errorf("%v: status %v with %d details", test.err, s, len(s.Details()))
			continue
		}
		problem := s.Details()[0].(*diskmapper.Problem)
		if problem.Reason != test.reason || problem.HeaderReason != test.header {
			t.Errorf("%v: problem %v", test.err, problem)
		}
		if test.err == error(rollback) && (toGeneration(problem.Disk) != rollback.Disk || toGeneration(problem.Known) != rollback.Known) {
			t.Errorf("the generations are %v", problem)
		}
	}
	if fail(nil) != nil {
		t.Error("no error became one")
	}
}
