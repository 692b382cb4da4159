// SPDX-License-Identifier: Apache-2.0

//go:build guest

package disk

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/constellation-os/constellation/tools/guesttest"
)

// served is a memory disk that the kernel sees as a block device: a network block device whose server is the test. So
// the test sees every write, in order, and decides what every read returns.
type served struct {
	path string

	mu     sync.Mutex
	disk   *memory
	log    []written
	broken bool // every request fails from now on

	device *os.File
	server *os.File
	done   chan struct{}
}

// written is one write that the kernel made.
type written struct {
	at   int64
	data []byte
}

// ioctls of linux/nbd.h.
const (
	nbdSetSock       = 0xab00
	nbdSetBlockSize  = 0xab01
	nbdDoIt          = 0xab03
	nbdClearSock     = 0xab04
	nbdSetSizeBlocks = 0xab07
	nbdDisconnect    = 0xab08
	nbdSetFlags      = 0xab0a

	nbdFlags      = 1 | 4 | 8 // has flags, knows flush and FUA
	nbdRequest    = 0x25609513
	nbdReply      = 0x67446698
	nbdRead       = 0
	nbdWrite      = 1
	nbdStop       = 2
	nbdFlush      = 3
	nbdSectorSize = 512
)

func serve(t testing.TB, disk *memory) *served {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &served{path: "/dev/nbd0", disk: disk, server: os.NewFile(uintptr(fds[0]), "server"), done: make(chan struct{})}
	if s.device, err = os.OpenFile(s.path, os.O_RDWR, 0); err != nil {
		t.Fatal(err)
	}
	for _, set := range []struct{ request, value uintptr }{
		{nbdSetBlockSize, nbdSectorSize},
		{nbdSetSizeBlocks, uintptr(disk.size / nbdSectorSize)},
		{nbdSetFlags, nbdFlags},
		{nbdSetSock, uintptr(fds[1])},
	} {
		if err := ioctl(s.device, set.request, set.value); err != nil {
			t.Fatalf("set up the network block device (%x): %v", set.request, err)
		}
	}
	go s.answer()
	go func() {
		defer close(s.done)
		// A signal would end the call, and Go's scheduler sends them. The thread, with its mask, ends with this goroutine.
		runtime.LockOSThread()
		var all unix.Sigset_t
		for i := range all.Val {
			all.Val[i] = ^uint64(0)
		}
		if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, nil); err != nil {
			panic(err)
		}
		_ = ioctl(s.device, nbdDoIt, 0) // returns when the device is disconnected
		_ = ioctl(s.device, nbdClearSock, 0)
		unix.Close(fds[1])
	}()
	// The kernel connects while nbdDoIt runs: until then every request fails.
	if err := guesttest.Eventually(5*time.Second, func() error {
		file, err := os.Open(s.path)
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = file.Read(make([]byte, nbdSectorSize))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

func ioctl(file *os.File, request, value uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, file.Fd(), request, value); errno != 0 {
		return errno
	}
	return nil
}

// stop takes the device away.
func (s *served) stop(t testing.TB) {
	t.Helper()
	if err := ioctl(s.device, nbdDisconnect, 0); err != nil {
		t.Error(err)
	}
	<-s.done
	s.device.Close()
}

// with runs do while the disk's state cannot change.
func (s *served) with(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

func (s *served) answer() {
	defer s.server.Close() // which ends nbdDoIt
	header := make([]byte, 28)
	for {
		if _, err := io.ReadFull(s.server, header); err != nil || binary.BigEndian.Uint32(header) != nbdRequest {
			return
		}
		kind := binary.BigEndian.Uint16(header[6:])
		at, size := int64(binary.BigEndian.Uint64(header[16:])), binary.BigEndian.Uint32(header[24:])
		var payload []byte
		if kind == nbdWrite {
			payload = make([]byte, size)
			if _, err := io.ReadFull(s.server, payload); err != nil {
				return
			}
		}
		if kind == nbdStop {
			return
		}
		data, err := s.do(kind, at, size, payload)
		reply := make([]byte, 16, 16+len(data))
		binary.BigEndian.PutUint32(reply, nbdReply)
		if err != nil {
			binary.BigEndian.PutUint32(reply[4:], uint32(unix.EIO))
			data = nil
		}
		copy(reply[8:], header[8:16])
		if _, err := s.server.Write(append(reply, data...)); err != nil {
			return
		}
	}
}

var errBroken = errors.New("the disk is gone")

func (s *served) do(kind uint16, at int64, size uint32, payload []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.broken:
		return nil, errBroken
	case kind == nbdRead:
		data := make([]byte, size)
		_, err := s.disk.ReadAt(data, at)
		return data, err
	case kind == nbdWrite:
		s.log = append(s.log, written{at, payload})
		_, err := s.disk.WriteAt(payload, at)
		return nil, err
	}
	return nil, nil
}
