// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A fakeBoard is the part of a halted machine that the firmware configuration is
// read through: PCI configuration registers, memory, and the fw_cfg device. The
// file etc/acpi/tables shows which registers were programmed when it was read, as
// QEMU's does.
type fakeBoard struct {
	address  uint32
	pci      map[uint32]uint32
	memory   map[uint64][]byte
	files    map[string][]byte
	refuse   bool   // every transfer
	claims   uint32 // files that the directory claims, if not 0
	selected []string
}

func newFakeBoard() *fakeBoard {
	return &fakeBoard{
		pci: map[uint32]uint32{
			register(0, 0):       0x29c08086,
			register(0x1f, 0):    0x29188086,
			register(3, 0):       0x10421af4,
			register(3, 0x10):    0xfebf0000, // 32 bits
			register(3, 0x14):    0x0000000c, // 64 bits, prefetchable
			register(4, 0):       0x10431af4,
			register(4, 0x20):    0x0000000c,
			register(0x1e, 0x10): 0x0000000c, // of no device: the vendor's register is empty
		},
		memory: map[uint64][]byte{},
		files:  map[string][]byte{"bootorder": []byte("disk\x00"), "empty": nil, "etc/e820": e820(0xfd00000000, 3<<30)},
	}
}

func e820(start, length uint64) []byte {
	b := binary.LittleEndian.AppendUint64(nil, start)
	b = binary.LittleEndian.AppendUint64(b, length)
	return binary.LittleEndian.AppendUint32(b, 2)
}

func register(device, offset uint32) uint32 { return 1<<31 | device<<11 | offset }

func (b *fakeBoard) names() []string {
	return []string{"bootorder", "empty", "etc/acpi/tables", "etc/e820"}
}

func (b *fakeBoard) content(name string) []byte {
	if name != "etc/acpi/tables" {
		return b.files[name]
	}
	return fmt.Appendf(nil, "PCIEXBAR %08x PMBASE %03x first %02x%08x second %02x%08x command %x",
		b.pci[register(0, 0x60)], b.pci[register(0x1f, 0x40)],
		b.pci[register(3, 0x18)], b.pci[register(3, 0x14)],
		b.pci[register(4, 0x24)], b.pci[register(4, 0x20)], b.pci[register(3, 4)])
}

// transfer serves one request of the fw_cfg device's DMA interface.
func (b *fakeBoard) transfer() {
	request := b.memory[fwCfgRequestAddress]
	if b.refuse {
		binary.BigEndian.PutUint32(request, fwCfgDMAError)
		return
	}
	selector := int(binary.BigEndian.Uint32(request) >> 16)
	var item []byte
	if selector == fwCfgDirectory {
		count := uint32(len(b.names()))
		if b.claims != 0 {
			count = b.claims
		}
		item = binary.BigEndian.AppendUint32(nil, count)
		for i, name := range b.names() {
			entry := make([]byte, fwCfgEntrySize)
			binary.BigEndian.PutUint32(entry, uint32(len(b.content(name))))
			binary.BigEndian.PutUint16(entry[4:], uint16(0x20+i))
			copy(entry[8:], name)
			item = append(item, entry...)
		}
	} else {
		name := b.names()[selector-0x20]
		b.selected = append(b.selected, name)
		item = b.content(name)
	}
	b.memory[binary.BigEndian.Uint64(request[8:])] = item
	binary.BigEndian.PutUint32(request, 0)
}

func (b *fakeBoard) serve(conn io.ReadWriter) {
	for s := bufio.NewScanner(conn); s.Scan(); {
		var n, value uint64
		words := strings.Fields(s.Text())
		_, _ = fmt.Sscanf(words[1], "0x%x", &n)
		if len(words) > 2 {
			_, _ = fmt.Sscanf(words[2], "0x%x", &value)
		}
		reply := "OK"
		switch words[0] {
		case "outl":
			switch n {
			case pciAddressPort:
				b.address = uint32(value)
			case pciDataPort:
				b.pci[b.address] = uint32(value)
			case fwCfgDMALow:
				b.transfer()
			}
		case "inl":
			v, ok := b.pci[b.address]
			if !ok && b.address&0xff == 0 {
				v = 0xffffffff
			}
			reply = fmt.Sprintf("IRQ raise 1\nOK 0x%x", v)
		case "write":
			data, _ := hex.DecodeString(strings.TrimPrefix(words[3], "0x"))
			b.memory[n] = data
		case "read":
			reply = fmt.Sprintf("OK 0x%x", b.memory[n][:value])
		default:
			reply = "FAIL unknown command"
		}
		if _, err := io.WriteString(conn, reply+"\n"); err != nil {
			return
		}
	}
}

// serveProcessor answers a monitor's questions about the first processor.
func serveProcessor(conn io.ReadWriter, properties map[string]string) {
	_, _ = io.WriteString(conn, `{"QMP":{}}`+"\n")
	for d := json.NewDecoder(conn); ; {
		var command struct {
			Execute   string
			Arguments struct{ Path, Property string }
		}
		if d.Decode(&command) != nil {
			return
		}
		answer := `{}`
		switch command.Execute {
		case "query-cpus-fast":
			answer = `[{"qom-path":"/machine/cpu[0]"}]`
		case "qom-get":
			answer = properties[command.Arguments.Property]
		}
		if _, err := io.WriteString(conn, `{"return":`+answer+"}\n"); err != nil {
			return
		}
	}
}

var amd40 = map[string]string{"vendor": `"AuthenticAMD"`, "phys-bits": "40", "la57": "false", "pdpe1gb": "true"}

func ask(t *testing.T, b *fakeBoard, properties map[string]string) (map[string][]byte, error) {
	t.Helper()
	qmp, qmpPeer := net.Pipe()
	conn, peer := net.Pipe()
	t.Cleanup(func() { qmp.Close(); conn.Close() })
	go serveProcessor(qmpPeer, properties)
	go b.serve(peer)
	return interview(t.Context(), newMonitor(qmp), newQtest(conn))
}

func TestFirmwareConfigIsReadFromAProgrammedBoard(t *testing.T) {
	b := newFakeBoard()
	got, err := ask(t, b, amd40)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{
		"bootorder": []byte("disk\x00"),
		"empty":     nil,
		"etc/e820":  e820(0xfd00000000, 3<<30),
		// The window lies below what is reserved at the address space's end.
		"etc/acpi/tables": []byte("PCIEXBAR e0000001 PMBASE 601 first c000000000 second c000100000 command 3"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if b.selected[0] != "etc/e820" {
		t.Errorf("the first file read is %s: the board is programmed by etc/e820", b.selected[0])
	}
}

func TestFirmwareConfigRefusals(t *testing.T) {
	tests := map[string]struct {
		spoil func(*fakeBoard)
		want  string
	}{
		"transfer refused": {func(b *fakeBoard) { b.refuse = true }, "QEMU refused the transfer"},
		"endless list":     {func(b *fakeBoard) { b.claims = 1 << 20 }, "claims 1048576 files"},
		"huge file":        {func(b *fakeBoard) { b.files["bootorder"] = make([]byte, maxFwCfgFile+1) }, `"bootorder" claims 16777217 bytes`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			b := newFakeBoard()
			tc.spoil(b)
			if _, err := ask(t, b, amd40); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q in it", err, tc.want)
			}
		})
	}
}

func TestMMIOWindow(t *testing.T) {
	tests := map[string]struct {
		cpu  processor
		e820 []byte
		want uint64 // 0: refused
	}{
		"AMD, 40 bits":           {processor{"AuthenticAMD", 40, false, true}, nil, 0xe000000000},
		"below a reservation":    {processor{"AuthenticAMD", 40, false, true}, e820(0xfd00000000, 3<<30), 0xc000000000},
		"reservation elsewhere":  {processor{"AuthenticAMD", 40, false, true}, e820(0xb0000000, 1<<28), 0xe000000000},
		"AMD, 48 bits":           {processor{"AuthenticAMD", 48, false, true}, nil, 1<<46 - 1<<43},
		"five levels":            {processor{"GenuineIntel", 52, true, true}, nil, 1<<48 - 1<<45},
		"Intel, 39 bits":         {processor{"GenuineIntel", 39, false, true}, nil, 1<<39 - 1<<36},
		"no large pages":         {processor{"AuthenticAMD", 48, false, false}, nil, 1<<40 - 1<<37},
		"Intel claiming 40 bits": {processor{"GenuineIntel", 40, false, true}, nil, 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := tc.cpu.mmioWindow(tc.e820)
			if got != tc.want || (err != nil) != (tc.want == 0) {
				t.Errorf("got %#x, %v, want %#x", got, err, tc.want)
			}
		})
	}
}
