// SPDX-License-Identifier: Apache-2.0

package measurementreader

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// A fakeTPM answers the two commands that the reader sends, byte by byte as
// TPM 2.0 Library Part 3 lays them out.
type fakeTPM struct {
	banks   map[tpm2.TPMAlgID][]byte // allocated PCRs: a bit map
	perCall int                      // values per answer, at most
	broken  func(answer []byte) []byte
}

const (
	commandGetCapability = 0x17a
	commandPCRRead       = 0x17e
)

// value is what PCR pcr of a bank holds.
func (f *fakeTPM) value(bank tpm2.TPMAlgID, pcr int) []byte {
	if bank == tpm2.TPMAlgSHA384 {
		h := sha512.Sum384([]byte{byte(pcr)})
		return h[:]
	}
	h := sha256.Sum256([]byte{byte(pcr)})
	return h[:]
}

// Send implements transport.TPM.
func (f *fakeTPM) Send(input []byte) ([]byte, error) {
	var body []byte
	switch code := binary.BigEndian.Uint32(input[6:]); code {
	case commandGetCapability:
		body = f.capabilities()
	case commandPCRRead:
		body = f.read(input[10:])
	default:
		return nil, errors.New("unexpected command")
	}
	if f.broken != nil {
		body = f.broken(body)
	}
	head := binary.BigEndian.AppendUint16(nil, 0x8001) // TPM_ST_NO_SESSIONS
	head = binary.BigEndian.AppendUint32(head, uint32(10+len(body)))
	head = binary.BigEndian.AppendUint32(head, 0) // TPM_RC_SUCCESS
	return append(head, body...), nil
}

func (f *fakeTPM) capabilities() []byte {
	body := []byte{0}                               // no more data
	body = binary.BigEndian.AppendUint32(body, 0x5) // TPM_CAP_PCRS
	body = binary.BigEndian.AppendUint32(body, uint32(len(f.banks)))
	for _, bank := range []tpm2.TPMAlgID{tpm2.TPMAlgSHA1, tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384} {
		if bits, ok := f.banks[bank]; ok {
			body = appendSelection(body, bank, bits)
		}
	}
	return body
}

func appendSelection(to []byte, bank tpm2.TPMAlgID, bits []byte) []byte {
	to = binary.BigEndian.AppendUint16(to, uint16(bank))
	to = append(to, byte(len(bits)))
	return append(to, bits...)
}

func (f *fakeTPM) read(request []byte) []byte {
	bank := tpm2.TPMAlgID(binary.BigEndian.Uint16(request[4:]))
	wanted := request[7 : 7+int(request[6])]
	given := make([]byte, len(wanted))
	var values [][]byte
	for pcr := 0; pcr < 8*len(wanted) && len(values) < f.perCall; pcr++ {
		if wanted[pcr/8]>>(pcr%8)&1 == 1 {
			given[pcr/8] |= 1 << (pcr % 8)
			values = append(values, f.value(bank, pcr))
		}
	}
	body := binary.BigEndian.AppendUint32(nil, 7) // update counter
	body = binary.BigEndian.AppendUint32(body, 1)
	body = appendSelection(body, bank, given)
	body = binary.BigEndian.AppendUint32(body, uint32(len(values)))
	for _, v := range values {
		body = binary.BigEndian.AppendUint16(body, uint16(len(v)))
		body = append(body, v...)
	}
	return body
}

var allPCRs = []byte{0xff, 0xff, 0xff}

func tpmWith(banks ...tpm2.TPMAlgID) *fakeTPM {
	f := &fakeTPM{banks: map[tpm2.TPMAlgID][]byte{}, perCall: 8}
	for _, bank := range []tpm2.TPMAlgID{tpm2.TPMAlgSHA1, tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384} {
		f.banks[bank] = []byte{0, 0, 0}
		if slices.Contains(banks, bank) {
			f.banks[bank] = allPCRs
		}
	}
	return f
}
