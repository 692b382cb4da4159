// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
)

// The metadata (LUKS2 specification, 3), with the fields in the order in which cryptsetup writes them. Numbers of 64
// bits are strings there. A field that is missing shows when the metadata is written again.
type (
	metadata struct {
		Keyslots map[string]keyslot `json:"keyslots"`
		Tokens   map[string]token   `json:"tokens"`
		Segments map[string]segment `json:"segments"`
		Digests  map[string]digest  `json:"digests"`
		Config   config             `json:"config"`
	}
	keyslot struct {
		Type    string `json:"type"`
		KeySize int    `json:"key_size"`
		AF      struct {
			Type    string `json:"type"`
			Stripes int    `json:"stripes"`
			Hash    string `json:"hash"`
		} `json:"af"`
		Area struct {
			Type       string `json:"type"`
			Offset     string `json:"offset"`
			Size       string `json:"size"`
			Encryption string `json:"encryption"`
			KeySize    int    `json:"key_size"`
		} `json:"area"`
		KDF struct {
			Type       string `json:"type"`
			Hash       string `json:"hash"`
			Iterations int    `json:"iterations"`
			Salt       []byte `json:"salt"`
		} `json:"kdf"`
	}
	token struct {
		Type     string     `json:"type"`
		Keyslots []string   `json:"keyslots"`
		Version  int        `json:"version"`
		Current  Generation `json:"current"`
		Next     Generation `json:"next"`
		MAC      []byte     `json:"mac"`
	}
	segment struct {
		Type       string `json:"type"`
		Offset     string `json:"offset"`
		Size       string `json:"size"`
		IVTweak    string `json:"iv_tweak"`
		Encryption string `json:"encryption"`
		SectorSize int    `json:"sector_size"`
		Integrity  struct {
			Type              string `json:"type"`
			JournalEncryption string `json:"journal_encryption"`
			JournalIntegrity  string `json:"journal_integrity"`
		} `json:"integrity"`
	}
	digest struct {
		Type       string   `json:"type"`
		Keyslots   []string `json:"keyslots"`
		Segments   []string `json:"segments"`
		Hash       string   `json:"hash"`
		Iterations int      `json:"iterations"`
		Salt       []byte   `json:"salt"`
		Digest     []byte   `json:"digest"`
	}
	config struct {
		JSONSize     string `json:"json_size"`
		KeyslotsSize string `json:"keyslots_size"`
	}
)

const tokenVersion = 1

// decode takes from the metadata what is not the same for all, and refuses it where something else differs.
func (h *Header) decode(document []byte) error {
	var m metadata
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&m); err != nil {
		return refuse(ReasonMetadata, "it is not JSON of the fields that a state disk has")
	}
	for _, part := range []func(*metadata) error{h.takeSegments, h.takeKeyslots, h.takeDigest, h.takeTokens} {
		if err := part(&m); err != nil {
			return err
		}
	}
	if m.Config != wantConfig() {
		return refuse(ReasonLayout, "the sizes of the header's areas differ")
	}
	return nil
}

// takeSegments comes first: it is what attacks aim at.
func (h *Header) takeSegments(m *metadata) error {
	got, ok := m.Segments["0"]
	if !ok || len(m.Segments) != 1 {
		return refuse(ReasonSegments, "%d segments of data, not the one", len(m.Segments))
	}
	want := wantSegment()
	switch {
	case got.Encryption != want.Encryption:
		return refuse(ReasonCipher, "the data's cipher is not %s", cipher)
	case got.Integrity != want.Integrity:
		return refuse(ReasonIntegrity, "the data is not authenticated by %s", integrity)
	case got != want:
		return refuse(ReasonSegments, "place, size or sectors of the data differ")
	}
	return nil
}

func (h *Header) takeKeyslots(m *metadata) error {
	if len(m.Keyslots) == 0 || len(m.Keyslots) > Slots {
		return refuse(ReasonKeyslots, "%d key slots, not 1 or 2", len(m.Keyslots))
	}
	found := 0
	for i := range Slots {
		got, ok := m.Keyslots[strconv.Itoa(i)]
		if !ok {
			continue
		}
		found++
		if len(got.KDF.Salt) != saltSize {
			return refuse(ReasonKDF, "a key slot's salt has another length")
		}
		slot := &Slot{Salt: [saltSize]byte(got.KDF.Salt)}
		want := slot.keyslot(i)
		switch {
		case got.KeySize != want.KeySize:
			return refuse(ReasonKeySize, "the volume key has %d bytes, not %d", got.KeySize, want.KeySize)
		case got.KDF.Type != want.KDF.Type || got.KDF.Hash != want.KDF.Hash || got.KDF.Iterations != want.KDF.Iterations:
			return refuse(ReasonKDF, "a key slot's key is not derived by PBKDF2 with SHA-256 in %d rounds", iterations)
		case got.Type != want.Type || got.AF != want.AF || got.Area != want.Area:
			return refuse(ReasonKeyslots, "kind, place or cipher of a key slot differ")
		}
		h.Slots[i] = slot
	}
	if found != len(m.Keyslots) {
		return refuse(ReasonKeyslots, "a key slot has another number than 0 and 1")
	}
	return nil
}

func (h *Header) takeDigest(m *metadata) error {
	got, ok := m.Digests["0"]
	if !ok || len(m.Digests) != 1 {
		return refuse(ReasonDigests, "%d digests, not the one", len(m.Digests))
	}
	if len(got.Salt) != saltSize || len(got.Digest) != digestSize {
		return refuse(ReasonDigests, "salt or digest have another length")
	}
	h.Digest = Digest{Salt: [saltSize]byte(got.Salt), Sum: [digestSize]byte(got.Digest)}
	want := h.digest()
	if got.Type != want.Type || got.Hash != want.Hash || got.Iterations != want.Iterations ||
		!slices.Equal(got.Keyslots, want.Keyslots) || !slices.Equal(got.Segments, want.Segments) {
		return refuse(ReasonDigests, "kind, rounds, or what the digest is for differ")
	}
	return nil
}

func (h *Header) takeTokens(m *metadata) error {
	for i, slot := range h.Slots {
		got, ok := m.Tokens[strconv.Itoa(i)]
		if ok != (slot != nil) {
			return refuse(ReasonTokens, "there is not one token for each key slot")
		}
		if slot == nil {
			continue
		}
		if got.Type != TokenType || got.Version != tokenVersion {
			return refuse(ReasonTokens, "a token is not of type %s and version %d", TokenType, tokenVersion)
		}
		if !slices.Equal(got.Keyslots, []string{strconv.Itoa(i)}) || len(got.MAC) != macSize {
			return refuse(ReasonTokens, "a token is not for its key slot, or its MAC has another length")
		}
		if !got.Current.valid() || !got.Next.valid() {
			return refuse(ReasonTokens, "a generation is not a number and 32 hexadecimal digits")
		}
		slot.MAC = [macSize]byte(got.MAC)
		slot.Current, slot.Next = got.Current, got.Next
	}
	if len(m.Tokens) != len(m.Keyslots) {
		return refuse(ReasonTokens, "%d tokens for %d key slots", len(m.Tokens), len(m.Keyslots))
	}
	return nil
}

// document writes the metadata.
func (h *Header) document() []byte {
	m := metadata{
		Keyslots: map[string]keyslot{}, Tokens: map[string]token{},
		Segments: map[string]segment{"0": wantSegment()},
		Digests:  map[string]digest{"0": h.digest()},
		Config:   wantConfig(),
	}
	for i, slot := range h.Slots {
		if slot != nil {
			m.Keyslots[strconv.Itoa(i)] = slot.keyslot(i)
			m.Tokens[strconv.Itoa(i)] = slot.token(i)
		}
	}
	text, err := json.Marshal(m)
	if err != nil || len(text) >= metadataSize {
		panic(fmt.Sprintf("luks2: metadata of %d bytes, %v", len(text), err)) // of fixed size, but for numbers
	}
	return text
}

func wantConfig() config {
	return config{JSONSize: strconv.Itoa(metadataSize), KeyslotsSize: strconv.Itoa(DataOffset - SlotOffset)}
}

func wantSegment() segment {
	s := segment{
		Type: "crypt", Offset: strconv.Itoa(DataOffset), Size: "dynamic", IVTweak: "0",
		Encryption: cipher, SectorSize: SectorSize,
	}
	s.Integrity.Type, s.Integrity.JournalEncryption, s.Integrity.JournalIntegrity = integrity, none, none
	return s
}

func (h *Header) digest() digest {
	var slots []string
	for i, slot := range h.Slots {
		if slot != nil {
			slots = append(slots, strconv.Itoa(i))
		}
	}
	return digest{
		Type: "pbkdf2", Keyslots: slots, Segments: []string{"0"}, Hash: hash, Iterations: iterations,
		Salt: h.Digest.Salt[:], Digest: h.Digest.Sum[:],
	}
}
