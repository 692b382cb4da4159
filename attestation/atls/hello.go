// SPDX-License-Identifier: Apache-2.0

package atls

import (
	"encoding/binary"
	"slices"

	"github.com/constellation-os/constellation/attestation"
)

// protocolVersion is the only version (docs/atls.md, section 4).
const protocolVersion = 1

// nonceSize is in bytes.
const nonceSize = 32

// maxTechnologies is how many a hello may offer, and how many demand.
const maxTechnologies = 8

// maxNameSize is the longest name of a technology, composites included.
const maxNameSize = attestation.MaxParts*(attestation.MaxTechnologySize+1) - 1

// role is a side of the connection, as in TLS.
type role uint8

const (
	client role = 1
	server role = 2
)

func (r role) peer() role { return client + server - r }

type nonce [nonceSize]byte

// hello is the body of a frameHello.
type hello struct {
	version uint16
	role    role
	nonce   nonce
	// offers are technologies that the sender can prove itself by, best first.
	offers []attestation.Technology
	// demands are those of which the sender wants one, best first.
	demands []attestation.Technology
}

func (h *hello) marshal() []byte {
	b := binary.BigEndian.AppendUint16(nil, h.version)
	b = append(b, byte(h.role))
	b = append(b, h.nonce[:]...)
	for _, list := range [][]attestation.Technology{h.offers, h.demands} {
		b = append(b, byte(len(list)))
		for _, t := range list {
			b = append(b, byte(len(t)))
			b = append(b, t...)
		}
	}
	return b
}

// parseHello looks at the version first: what follows it may differ in others.
func parseHello(body []byte) (*hello, error) {
	if len(body) < 2 {
		return nil, attestation.Refuse(attestation.ReasonMalformed, "hello of %d bytes", len(body))
	}
	h := &hello{version: binary.BigEndian.Uint16(body)}
	if h.version != protocolVersion {
		return nil, attestation.Refuse(attestation.ReasonVersion, "protocol version %d, this program speaks %d", h.version, protocolVersion)
	}
	if len(body) < 2+1+nonceSize+2 {
		return nil, attestation.Refuse(attestation.ReasonMalformed, "hello of %d bytes", len(body))
	}
	h.role = role(body[2])
	copy(h.nonce[:], body[3:])
	rest, err := body[3+nonceSize:], error(nil)
	if h.offers, rest, err = parseTechnologies(rest); err != nil {
		return nil, err
	}
	if h.demands, rest, err = parseTechnologies(rest); err != nil {
		return nil, err
	}
	if len(rest) != 0 {
		return nil, attestation.Refuse(attestation.ReasonMalformed, "%d bytes after the hello", len(rest))
	}
	return h, nil
}

func parseTechnologies(b []byte) (list []attestation.Technology, rest []byte, err error) {
	if len(b) == 0 {
		return nil, nil, attestation.Refuse(attestation.ReasonMalformed, "hello is cut short")
	}
	count, b := int(b[0]), b[1:]
	if count > maxTechnologies {
		return nil, nil, attestation.Refuse(attestation.ReasonTooLarge, "%d technologies, at most %d", count, maxTechnologies)
	}
	for range count {
		if len(b) == 0 || len(b)-1 < int(b[0]) {
			return nil, nil, attestation.Refuse(attestation.ReasonMalformed, "hello is cut short")
		}
		t := attestation.Technology(b[1 : 1+b[0]])
		if len(t) > maxNameSize || !t.Valid() || slices.Contains(list, t) {
			return nil, nil, attestation.Refuse(attestation.ReasonMalformed, "a technology's name is not valid, or there twice")
		}
		list, b = append(list, t), b[1+len(t):]
	}
	return list, b, nil
}

// agree finds the technology by which a prover that makes offers proves itself to
// a verifier with demands: the prover's first that is demanded, none if neither
// side wants a proof.
func agree(offers, demands []attestation.Technology) (attestation.Technology, error) {
	switch {
	case len(offers) == 0 && len(demands) == 0:
		return "", nil
	case len(offers) == 0:
		return "", attestation.Refuse(attestation.ReasonMode, "evidence is demanded and not offered")
	case len(demands) == 0:
		return "", attestation.Refuse(attestation.ReasonMode, "evidence is offered and not demanded")
	}
	for _, t := range offers {
		if slices.Contains(demands, t) {
			return t, nil
		}
	}
	return "", attestation.Refuse(attestation.ReasonTechnology, "%q is offered, %q is accepted", offers, demands)
}
