// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"testing"
)

// The fuzzers want a header that is the same in each process.
var fuzzKey = bytes.Repeat([]byte{7}, KeySize)

func fuzzHeader(t testing.TB) (*Header, MACKey) {
	t.Helper()
	key, err := NewMACKey(fuzzKey)
	if err != nil {
		t.Fatal(err)
	}
	g := Generation{Number: 3, ID: "000102030405060708090a0b0c0d0e0f"}
	h := &Header{UUID: uuid, Sequence: 9, Slots: [Slots]*Slot{{Current: g}}}
	h.Sign([Slots]MACKey{key})
	return h, key
}

// FuzzHeader gives arbitrary bytes to the parser: nothing but the header itself is accepted.
func FuzzHeader(f *testing.F) {
	h, key := fuzzHeader(f)
	good := h.Encode(Primary)
	f.Add(good, true)
	f.Add([]byte(magic), false)
	f.Fuzz(func(t *testing.T, data []byte, sealed bool) {
		data = append(bytes.Clone(data), make([]byte, HeaderSize)...)[:HeaderSize]
		if sealed {
			reseal(data)
		}
		refuseOthers(t, good, data, key)
	})
}

func refuseOthers(t *testing.T, good, data []byte, key MACKey) {
	t.Helper()
	if _, _, err := accept(data, Primary, key); err == nil && !bytes.Equal(data, good) {
		t.Fatalf("accepted:\n%q", data)
	} else if err != nil && ReasonOf(err) == "" {
		t.Fatalf("refused without a reason: %v", err)
	}
}

// FuzzStructure changes the header where it has a meaning: the metadata's tree, node by node, and the binary fields.
// The seed decides which changes are made; the checksum is right always.
func FuzzStructure(f *testing.F) {
	h, key := fuzzHeader(f)
	good := h.Encode(Primary)
	for seed := range uint64(50) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		refuseOthers(t, good, mutate(good, seed), key)
	})
}

// TestV1MutatedStructuresAreRefused is FuzzStructure for a fixed number of seeds.
func TestV1MutatedStructuresAreRefused(t *testing.T) {
	h, key := fuzzHeader(t)
	good := h.Encode(Primary)
	for seed := range uint64(3000) {
		refuseOthers(t, good, mutate(good, seed), key)
	}
}

// mutate makes one to three changes.
func mutate(good []byte, seed uint64) []byte {
	random := rand.New(rand.NewPCG(seed, 0))
	data := bytes.Clone(good)
	for range 1 + random.IntN(3) {
		if random.IntN(4) == 0 {
			mutateBinary(data, random)
			continue
		}
		if random.IntN(2) == 0 {
			mutateText(data, random)
			continue
		}
		var tree any
		if json.Unmarshal([]byte(text(data[binarySize:])), &tree) != nil {
			break
		}
		nodes := walk(&tree)
		node := nodes[random.IntN(len(nodes))]
		node.change(random, nodes)
		document, err := json.Marshal(tree)
		if err != nil {
			break // a value was put into itself
		}
		setDocument(data, document)
	}
	return reseal(data)
}

func setDocument(data, document []byte) {
	clear(data[binarySize:])
	copy(data[binarySize:], document[:min(len(document), metadataSize)])
}

// word is a name or value of JSON.
var word = regexp.MustCompile(`"[^"]*"|[0-9]+|true|false|null`)

// mutateText replaces a word and leaves all else as it is written, the order of fields too.
func mutateText(data []byte, random *rand.Rand) {
	document := []byte(text(data[binarySize:]))
	words := word.FindAllIndex(document, -1)
	if len(words) == 0 {
		return
	}
	at, other := words[random.IntN(len(words))], words[random.IntN(len(words))]
	with := bytes.Clone(document[other[0]:other[1]])
	switch random.IntN(3) {
	case 0:
		with, _ = json.Marshal(interesting[random.IntN(len(interesting))]) // all can be written
	case 1:
		with = bytes.Clone(document[at[0]:at[1]])
		with[random.IntN(len(with))] ^= byte(1 << random.IntN(7))
	}
	setDocument(data, slices.Concat(document[:at[0]], with, document[at[1]:]))
}

func mutateBinary(data []byte, random *rand.Rand) {
	fields := []int{0, offsetVersion, offsetSize, offsetSequence, offsetLabel, offsetAlgorithm, offsetSalt, offsetUUID,
		offsetSubsystem, offsetOffset, offsetPadding, endChecksum, binarySize}
	i := random.IntN(len(fields) - 1)
	at := fields[i] + random.IntN(fields[i+1]-fields[i])
	data[at] ^= byte(1 << random.IntN(8))
}

// node is a value of the tree, which can be replaced.
type node struct {
	get func() any
	set func(any)
	// in is the object that the value is a field of, if it is one.
	in   map[string]any
	name string
}

func walk(root *any) []node {
	var nodes []node
	var visit func(node)
	visit = func(n node) {
		nodes = append(nodes, n)
		switch value := n.get().(type) {
		case map[string]any:
			for name := range value {
				visit(node{func() any { return value[name] }, func(v any) { value[name] = v }, value, name})
			}
		case []any:
			for i := range value {
				visit(node{get: func() any { return value[i] }, set: func(v any) { value[i] = v }})
			}
		}
	}
	visit(node{get: func() any { return *root }, set: func(v any) { *root = v }})
	return nodes
}

// interesting are values that LUKS2 knows, and some that nobody should know.
var interesting = []any{
	"cipher_null-ecb", "aes-cbc-essiv:sha256", "aes-xts-plain64", "null", "none", "", "crypt", "linear", "reencrypt", "luks2",
	"argon2id", "pbkdf2", "hmac(sha256)", "hmac(sha1)", "poly1305", "aead", "crc32c", "dynamic", "0", "1", "-1", "16777216",
	"18446744073709551615", 0.0, 1.0, -1.0, 4096.0, 512.0, 1e18, true, nil, []any{}, []any{"0"}, map[string]any{},
	"constellation-state-disk", "online-reencrypt", "AAAA", "/dev/vda",
}

func (n node) change(random *rand.Rand, all []node) {
	switch random.IntN(6) {
	case 0:
		n.set(interesting[random.IntN(len(interesting))])
	case 1: // another value of the same header
		n.set(all[random.IntN(len(all))].get())
	case 2:
		if n.in != nil {
			delete(n.in, n.name)
		}
	case 3: // under another name
		if n.in != nil {
			n.in[strconv.Itoa(random.IntN(33))] = n.get()
		}
	case 4:
		if n.in != nil {
			n.in[n.name+"x"] = interesting[random.IntN(len(interesting))]
		}
	case 5: // one letter or a unit
		switch value := n.get().(type) {
		case string:
			if value != "" {
				b := []byte(value)
				b[random.IntN(len(b))] ^= byte(1 << random.IntN(7))
				n.set(string(b))
			}
		case float64:
			n.set(value + 1)
		}
	}
}
