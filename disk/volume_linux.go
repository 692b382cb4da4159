// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/constellation-os/constellation/disk/devicemapper"
	"github.com/constellation-os/constellation/disk/luks2"
)

// mapping is the names of the two devices that a disk is mapped to, as cryptsetup would give them.
type mapping struct{ volume, integrity string }

// A disk that is being formatted is mapped under other names than one that is open: nobody shall take the one for the
// other, and whoever waits for the open disk's device must not see one that is about to go.
var (
	openDisk = mapping{"state", "state_dif"}
	newDisk  = mapping{"state_new", "state_new_dif"}
)

const sector = 512

// Volume is an open state disk.
type Volume struct {
	// UUID is the disk's name.
	UUID string
	// Device is the block device with the file system.
	Device string
	// Size is its size in bytes.
	Size int64

	names mapping
}

// Format makes a disk a state disk, with an empty file system. The data area is not wiped: reading a sector that was
// never written is an error, and the file system never does. Format leaves the disk closed.
//
// A disk of less than [MinSize] is refused with [ErrTooSmall], one that is not fresh with [ErrHoldsSomething] unless it
// is to be taken. After a failure or a power cut the disk is fresh.
func Format(ctx context.Context, path string, o FormatOptions) error {
	if err := wantClosed(); err != nil {
		return err
	}
	device, err := openFile(path)
	if err != nil {
		return err
	}
	defer device.Close()
	return format(ctx, device, o, func(ctx context.Context, volumeKey []byte) error {
		volume, err := newDisk.activate(device, o.UUID, volumeKey)
		if err != nil {
			return err
		}
		return errors.Join(volume.makeFileSystem(ctx), volume.Close())
	})
}

// Open opens a state disk: authenticates its header, takes it to its next generation, and maps it. A header that is
// refused is a [*luks2.Error], a disk that the witness knows to be older a [*RollbackError], a disk without a header
// [ErrNotOurs]. If the disk has grown, so has the volume; [Volume.Grow] lets the file system follow.
func Open(ctx context.Context, path string, key []byte, w Witness) (*Volume, error) {
	if err := wantClosed(); err != nil {
		return nil, err
	}
	device, err := openFile(path)
	if err != nil {
		return nil, err
	}
	defer device.Close()
	uuid, volumeKey, err := unlock(ctx, device, key, w)
	if err != nil {
		return nil, err
	}
	defer clear(volumeKey)
	return openDisk.activate(device, uuid, volumeKey)
}

// wantClosed refuses to touch any disk while one is open, and clears away what a call left that did not come to its end.
func wantClosed() error {
	current, err := Current()
	if err != nil {
		return err
	}
	if current != nil {
		return ErrActive
	}
	return errors.Join(newDisk.remove(), openDisk.remove())
}

// unlock does all of opening a disk but mapping it.
func unlock(ctx context.Context, device Device, key []byte, w Witness) (uuid string, volumeKey []byte, err error) {
	mac, err := luks2.NewMACKey(key)
	if err != nil {
		return "", nil, err
	}
	h, err := load(device, mac)
	if err != nil {
		return "", nil, err
	}
	if volumeKey, err = h.header.Unlock(h.slot, h.areas[h.slot], key); err != nil {
		return "", nil, err
	}
	if err := h.advance(ctx, device, mac, w); err != nil {
		clear(volumeKey)
		return "", nil, err
	}
	return h.header.UUID, volumeKey, nil
}

// activate maps the volume: dm-integrity, which keeps a tag beside each sector, and dm-crypt on it, which makes and
// checks the tags. All that the tables say is constant, but for the device, its size and the key.
func (m mapping) activate(device fileDevice, uuid string, volumeKey []byte) (*Volume, error) {
	below, err := device.number()
	if err != nil {
		return nil, err
	}
	sectors, integrity, err := m.mapIntegrity(below, uuid)
	if err != nil {
		return nil, err
	}
	minor, err := m.mapCrypt(integrity, uuid, sectors, volumeKey)
	if err != nil {
		return nil, errors.Join(err, m.remove())
	}
	return m.of(uuid, minor, sectors), nil
}

// number is how device-mapper tables name the device that is open, whatever its path leads to by now. Nobody else gets
// the number while it is open.
func (f fileDevice) number() (string, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return "", fmt.Errorf("look at %s: %w", f.Name(), err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFBLK {
		return "", fmt.Errorf("%s is not a block device", f.Name())
	}
	return fmt.Sprintf("%d:%d", unix.Major(stat.Rdev), unix.Minor(stat.Rdev)), nil
}

const (
	// journal: a sector and its tag are written together or not at all. Without, a power cut leaves sectors that cannot
	// be read, the file system's journal among them. dm-integrity's bitmap is no choice: it would have to make the tags
	// itself. docs/benchmarks.md says what it costs.
	journal = "J"
	tagSize = "32"
)

// of describes the volume that is mapped.
func (m mapping) of(uuid string, minor uint32, sectors uint64) *Volume {
	return &Volume{UUID: uuid, Device: fmt.Sprintf("/dev/dm-%d", minor), Size: int64(sectors) * sector, names: m}
}

func (m mapping) mapIntegrity(below, uuid string) (sectors uint64, device string, err error) {
	table := devicemapper.Table{
		Name: m.integrity, UUID: "CRYPT-SUBDEV-" + strings.ReplaceAll(uuid, "-", "") + "-" + m.integrity,
		Sectors: luks2.SectorSize / sector, Target: "integrity",
		Parameters: fmt.Sprintf("%s %d %s %s 2 block_size:%d fix_padding", below, luks2.DataOffset/sector, tagSize, journal, luks2.SectorSize),
	}
	// How much fits beside the tags, the kernel knows; it tells of a device of any size.
	if _, _, err := devicemapper.Create(table); err != nil {
		return 0, "", err
	}
	state, err := devicemapper.Inspect(m.integrity)
	if err := errors.Join(err, remove(m.integrity)); err != nil {
		return 0, "", err
	}
	// Mismatches, sectors provided, sectors to recalculate (the kernel's Documentation/admin-guide/device-mapper/dm-integrity.rst).
	fields := strings.Fields(state.Status)
	if len(fields) < 2 {
		return 0, "", fmt.Errorf("dm-integrity's status is %q", state.Status)
	}
	if table.Sectors, err = strconv.ParseUint(fields[1], 10, 63); err != nil {
		return 0, "", fmt.Errorf("dm-integrity's status is %q", state.Status)
	}
	table.Sectors -= table.Sectors % (luks2.SectorSize / sector)
	major, minor, err := devicemapper.Create(table)
	return table.Sectors, fmt.Sprintf("%d:%d", major, minor), err
}

// mapCrypt hands the key to the kernel through a keyring of this thread, so that no table shows it.
func (m mapping) mapCrypt(below, uuid string, sectors uint64, volumeKey []byte) (minor uint32, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	description := "constellation:" + uuid
	id, err := unix.AddKey("logon", description, volumeKey, unix.KEY_SPEC_THREAD_KEYRING)
	if err != nil {
		return 0, fmt.Errorf("give the volume key to the kernel: %w", err)
	}
	_, minor, err = devicemapper.Create(devicemapper.Table{
		Name: m.volume, UUID: "CRYPT-LUKS2-" + strings.ReplaceAll(uuid, "-", "") + "-" + m.volume,
		Sectors: sectors, Target: "crypt",
		// The last two keep a write on the processor that asked for it, and spare it the way over a thread that sorts
		// writes: on a busy machine a small one is on the disk in a tenth of the time (docs/benchmarks.md).
		Parameters: fmt.Sprintf("capi:authenc(hmac(sha256),xts(aes))-plain64 :%d:logon:%s 0 %s 0 4 integrity:%s:aead sector_size:%d same_cpu_crypt submit_from_crypt_cpus",
			luks2.VolumeKeySize, description, below, tagSize, luks2.SectorSize),
	})
	// dm-crypt has copied it.
	if _, unlinkErr := unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_THREAD_KEYRING, 0, 0); unlinkErr != nil {
		err = errors.Join(err, fmt.Errorf("take the volume key back: %w", unlinkErr))
	}
	return minor, err
}

// removePatience is how long others, such as udev, may look at a device that is to go.
const removePatience = 5 * time.Second

// remove takes both devices away, those that there are.
func (m mapping) remove() error {
	for _, name := range []string{m.volume, m.integrity} {
		if err := remove(name); err != nil && !errors.Is(err, unix.ENXIO) {
			return err
		}
	}
	return nil
}

func remove(name string) error {
	for deadline := time.Now().Add(removePatience); ; time.Sleep(10 * time.Millisecond) {
		err := devicemapper.Remove(name)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
	}
}

// Close unmaps the volume. Its file system must not be mounted.
func (v *Volume) Close() error { return v.names.remove() }

// Current returns the volume that is open, or nil. A disk that is being formatted is not open.
func Current() (*Volume, error) {
	state, err := devicemapper.Inspect(openDisk.volume)
	// A device without a table was never finished.
	if errors.Is(err, unix.ENXIO) || err == nil && state.Sectors == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	uuid, err := uuidOf(state.UUID)
	if err != nil {
		return nil, err
	}
	return openDisk.of(uuid, state.Minor, state.Sectors), nil
}

// uuidOf finds the disk's name in that of the mapped device.
func uuidOf(name string) (string, error) {
	digits := strings.TrimSuffix(strings.TrimPrefix(name, "CRYPT-LUKS2-"), "-"+openDisk.volume)
	raw, err := hex.DecodeString(digits)
	if err != nil || len(raw) != 16 {
		return "", fmt.Errorf("the device %s is not a state disk's: it is called %q", openDisk.volume, name)
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", raw[:4], raw[4:6], raw[6:8], raw[8:10], raw[10:]), nil
}
