// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A qtest drives the devices of a QEMU whose processors do not run, in QEMU's
// qtest protocol: a line a request, a line a reply (QEMU's system/qtest.c).
type qtest struct {
	w io.Writer
	r *bufio.Reader
}

func newQtest(conn io.ReadWriter) *qtest {
	return &qtest{w: conn, r: bufio.NewReaderSize(conn, 64<<10)}
}

// ask sends a request and returns the reply's second word, if it has one.
func (q *qtest) ask(format string, args ...any) (string, error) {
	request := fmt.Sprintf(format, args...)
	if _, err := io.WriteString(q.w, request+"\n"); err != nil {
		return "", fmt.Errorf("qtest: %w", err)
	}
	for {
		line, err := q.r.ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("qtest: await the reply: %w", err)
		}
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "IRQ": // an interrupt line moved; not a reply
			continue
		case "OK":
			return rest, nil
		default:
			verb, _, _ := strings.Cut(request, " ")
			return "", fmt.Errorf("qtest: QEMU answered %q to %s", strings.TrimSpace(line), verb)
		}
	}
}

func (q *qtest) outl(port uint16, value uint32) error {
	_, err := q.ask("outl 0x%x 0x%x", port, value)
	return err
}

func (q *qtest) write(address uint64, data []byte) error {
	_, err := q.ask("write 0x%x 0x%x 0x%x", address, len(data), data)
	return err
}

func (q *qtest) read(address uint64, size int) ([]byte, error) {
	if size == 0 {
		return nil, nil
	}
	reply, err := q.ask("read 0x%x 0x%x", address, size)
	if err != nil {
		return nil, err
	}
	data, err := hex.DecodeString(strings.TrimPrefix(reply, "0x"))
	if err != nil {
		return nil, fmt.Errorf("qtest: decode memory: %w", err)
	}
	if len(data) != size {
		return nil, errors.New("qtest: QEMU returned another amount of memory")
	}
	return data, nil
}

// PCI configuration mechanism 1 (PCI Local Bus Specification 3.0, 3.2.2.3.2).
const (
	pciAddressPort = 0xcf8
	pciDataPort    = 0xcfc
)

// pciWrite writes a 32-bit register of a device's function on bus 0.
func (q *qtest) pciWrite(device, function, register uint8, value uint32) error {
	address := 1<<31 | uint32(device)<<11 | uint32(function)<<8 | uint32(register&^3)
	if err := q.outl(pciAddressPort, address); err != nil {
		return err
	}
	return q.outl(pciDataPort, value)
}

// pciRead reads a 32-bit register of a device's function on bus 0.
func (q *qtest) pciRead(device, function, register uint8) (uint32, error) {
	address := 1<<31 | uint32(device)<<11 | uint32(function)<<8 | uint32(register&^3)
	if err := q.outl(pciAddressPort, address); err != nil {
		return 0, err
	}
	reply, err := q.ask("inl 0x%x", pciDataPort)
	if err != nil {
		return 0, err
	}
	var value uint32
	if _, err := fmt.Sscanf(reply, "0x%x", &value); err != nil {
		return 0, fmt.Errorf("qtest: decode a register: %w", err)
	}
	return value, nil
}
