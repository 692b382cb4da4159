// SPDX-License-Identifier: Apache-2.0

package pe_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/measurements/artifacttest"
	"github.com/constellation-os/constellation/measurements/pe"
)

func digest(ranges [][]byte) string {
	h := sha256.New()
	for _, r := range ranges {
		h.Write(r)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// The expected digests were computed by pesign 116 (pesign -h -d sha256 -i FILE)
// of what artifacttest makes; WRITE_PE_VECTORS=DIR writes these files.
func TestAuthenticodeVectors(t *testing.T) {
	vectors := map[string]struct {
		image []byte
		want  string
	}{
		"unsigned.efi": {artifacttest.PE([]artifacttest.Section{{Name: ".text", Content: []byte("code")}, {Name: ".data", Content: bytes.Repeat([]byte("data"), 300)}}, nil), "f2756b5206be15044590ceedc1546486a2cbca61f227249f9deb56ef734529be"},
		"signed.efi":   {artifacttest.Kernel(), "db6655fd9b65c48011c745ab00ce4f00ac6a1d17caaab3af444c725b6e8ee2be"},
		"trailing.efi": {append(artifacttest.PE([]artifacttest.Section{{Name: ".text", Content: []byte("x")}}, nil), "trailing"...), "9043b0759480348cc9555051c707b3b7f06449380b8c61cf93efd9a26bab132f"},
	}
	dir := os.Getenv("WRITE_PE_VECTORS")
	for name, v := range vectors {
		if dir != "" {
			if err := os.WriteFile(dir+"/"+name, v.image, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		img, err := pe.Parse(v.image)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := digest(img.Authenticode()); got != v.want {
			t.Errorf("%s: %s, want %s", name, got, v.want)
		}
	}
}

// Neither the checksum, nor the certificate table, nor the entry that points to
// it is part of the digest; every other byte is.
func TestAuthenticodeCoversAllElse(t *testing.T) {
	image := artifacttest.Kernel()
	le := binary.LittleEndian
	const checksum, directory = 64 + 24 + 64, 64 + 24 + 112 + 8*4
	table := int(le.Uint32(image[directory:]))
	sum := func(b []byte) string {
		img, err := pe.Parse(b)
		if err != nil {
			return err.Error()
		}
		return digest(img.Authenticode())
	}
	want := sum(image)
	for i := range image {
		excluded := i >= checksum && i < checksum+4 || i >= directory && i < directory+8 || i >= table
		mutated := bytes.Clone(image)
		mutated[i] ^= 1
		if same := sum(mutated) == want; same != excluded && (i < directory || i >= directory+8) {
			t.Fatalf("byte %d: digest the same: %v, excluded: %v", i, same, excluded)
		}
	}
}

func TestSectionContent(t *testing.T) {
	image := artifacttest.DefaultUKI().Encode()
	uki, err := pe.ParseUKI(image)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range artifacttest.DefaultUKI() {
		if got, ok := uki.Section(name); !ok || !bytes.Equal(got, want) {
			t.Errorf("section %s: %q, want %q", name, got, want)
		}
	}
	if uki.Stub != artifacttest.StubVersion {
		t.Errorf("stub version %q, want %q", uki.Stub, artifacttest.StubVersion)
	}
	if _, ok := uki.Section(".ucode"); ok {
		t.Error("a section .ucode was found")
	}
}

// A section's memory may be larger than its data: the rest is zeros.
func TestSectionZeroFill(t *testing.T) {
	image := artifacttest.PE([]artifacttest.Section{{Name: ".linux", Content: []byte("abc")}}, nil)
	const virtualSize = 64 + 24 + 112 + 128 + 8
	binary.LittleEndian.PutUint32(image[virtualSize:], 600)
	uki, err := pe.ParseUKI(image)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := uki.Section(".linux")
	if diff := cmp.Diff(append([]byte("abc"), make([]byte, 597)...), got); diff != "" {
		t.Error("(-want +got):", diff)
	}
}

// dataless is a UKI whose last section has no data in the file, lies far behind the
// file's end by its offset, and is size bytes long in memory.
func dataless(size uint32) []byte {
	const table = 64 + 24 + 112 + 128
	b := artifacttest.PE([]artifacttest.Section{{Name: ".linux", Content: []byte("x")}, {Name: ".uname"}}, nil)
	const uname = table + 40
	binary.LittleEndian.PutUint32(b[uname+8:], size)
	binary.LittleEndian.PutUint32(b[uname+16:], 0)
	binary.LittleEndian.PutUint32(b[uname+20:], 0xf0000000)
	return b
}

// A section without data in the file is zeros: where its offset points does not matter.
func TestSectionWithoutData(t *testing.T) {
	for _, size := range []uint32{0, 1, 600} {
		uki, err := pe.ParseUKI(dataless(size))
		if err != nil {
			t.Errorf("%d bytes: %v", size, err)
			continue
		}
		if got, ok := uki.Section(".uname"); !ok || !bytes.Equal(got, make([]byte, size)) {
			t.Errorf("%d bytes: got %d, there: %v", size, len(got), ok)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	le := binary.LittleEndian
	const header, optional = 64, 64 + 24
	const table = optional + 112 + 128
	uki := func(f func(b []byte)) []byte { b := artifacttest.DefaultUKI().Encode(); f(b); return b }
	signed := func(f func(b []byte)) []byte { b := artifacttest.Kernel(); f(b); return b }
	tests := map[string]struct {
		image []byte
		want  pe.Reason
	}{
		"empty":                    {nil, pe.ReasonTruncated},
		"headers cut":              {artifacttest.Kernel()[:200], pe.ReasonTruncated},
		"section cut":              {artifacttest.DefaultUKI().Encode()[:2000], pe.ReasonTruncated},
		"no MZ":                    {uki(func(b []byte) { b[0] = 0 }), pe.ReasonNotPE},
		"no PE":                    {uki(func(b []byte) { b[header] = 0 }), pe.ReasonNotPE},
		"PE header far away":       {uki(func(b []byte) { le.PutUint32(b[60:], 1<<32-1) }), pe.ReasonTruncated},
		"PE header in DOS header":  {uki(func(b []byte) { le.PutUint32(b[60:], 8) }), pe.ReasonHeader},
		"arm64":                    {uki(func(b []byte) { le.PutUint16(b[header+4:], 0xaa64) }), pe.ReasonUnsupported},
		"PE32":                     {uki(func(b []byte) { le.PutUint16(b[optional:], 0x10b) }), pe.ReasonUnsupported},
		"no sections":              {uki(func(b []byte) { le.PutUint16(b[header+6:], 0) }), pe.ReasonTooLarge},
		"65535 sections":           {uki(func(b []byte) { le.PutUint16(b[header+6:], 65535) }), pe.ReasonTooLarge},
		"17 directories":           {uki(func(b []byte) { le.PutUint32(b[optional+108:], 17) }), pe.ReasonHeader},
		"headers longer than file": {uki(func(b []byte) { le.PutUint32(b[optional+60:], 1<<31) }), pe.ReasonTruncated},
		"section over the headers": {uki(func(b []byte) { le.PutUint32(b[table+20:], 0) }), pe.ReasonOverlap},
		"sections overlap":         {uki(func(b []byte) { le.PutUint32(b[table+16:], 1024) }), pe.ReasonOverlap},
		"sections overlap loaded":  {uki(func(b []byte) { le.PutUint32(b[table+8:], 8192) }), pe.ReasonOverlap},
		"section past the end":     {uki(func(b []byte) { le.PutUint32(b[table+20:], 1<<32-512) }), pe.ReasonTruncated},
		"certificates not at end":  {signed(func(b []byte) { b[optional+112+8*4+4] -= 8 }), pe.ReasonCertificate},
		"certificates over content": {signed(func(b []byte) {
			le.PutUint32(b[optional+112+8*4:], 512)
			le.PutUint32(b[optional+112+8*4+4:], uint32(len(b)-512))
		}), pe.ReasonTruncated},
		"no kernel":                {artifacttest.DefaultUKI().Without(".linux").Encode(), pe.ReasonNotUKI},
		"empty kernel":             {artifacttest.DefaultUKI().With(".linux", nil).Encode(), pe.ReasonNotUKI},
		"a profile":                {artifacttest.DefaultUKI().With(".profile", []byte("ID=x")).Encode(), pe.ReasonProfiles},
		"device trees":             {artifacttest.DefaultUKI().With(".dtbauto", []byte("x")).Encode(), pe.ReasonProfiles},
		"a section of later stubs": {artifacttest.DefaultUKI().With(".efifw", []byte("x")).Encode(), pe.ReasonUnknownSection},
		"two command lines": {artifacttest.PE([]artifacttest.Section{{Name: ".linux", Content: []byte("x")}, {Name: ".cmdline", Content: []byte("a")}, {Name: ".cmdline", Content: []byte("b")}}, nil),
			pe.ReasonOverlap},
		"a section of 4 GiB of zeros": {artifacttest.PE([]artifacttest.Section{{Name: ".linux", Content: []byte("x")}}, nil), pe.ReasonTooLarge},
	}
	le.PutUint32(tests["a section of 4 GiB of zeros"].image[table+8:], 1<<32-1)
	tests["no data, more than the limit of zeros"] = struct {
		image []byte
		want  pe.Reason
	}{dataless(2 << 20), pe.ReasonTooLarge}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := pe.ParseUKI(test.image)
			var e *pe.Error
			if !errors.As(err, &e) || e.Reason != test.want {
				t.Errorf("got %v, want reason %s", err, test.want)
			}
		})
	}
}

func FuzzParseUKI(f *testing.F) {
	f.Add(artifacttest.DefaultUKI().Encode())
	f.Add(artifacttest.Kernel())
	f.Add(dataless(0))
	f.Add(dataless(600))
	f.Fuzz(func(t *testing.T, b []byte) {
		uki, err := pe.ParseUKI(b)
		if err != nil {
			var e *pe.Error
			if !errors.As(err, &e) || e.Reason == "" {
				t.Fatalf("error without a reason: %v", err)
			}
			return
		}
		n := 0
		for _, r := range uki.Authenticode() {
			n += len(r)
		}
		if n > len(b) {
			t.Fatalf("%d bytes hashed of %d", n, len(b))
		}
	})
}
