// SPDX-License-Identifier: Apache-2.0

package pe

import "bytes"

// ReasonNotUKI says that an image has no .linux section.
const ReasonNotUKI Reason = "not-uki"

// ReasonProfiles says that a UKI has profiles, one of which is chosen at boot by
// whoever writes the boot entry.
const ReasonProfiles Reason = "profiles"

// ReasonUnknownSection says that a UKI has a section that neither systemd-stub
// nor the linker is known to make: a later stub may measure it.
const ReasonUnknownSection Reason = "unknown-section"

// UKISections are the sections of a unified kernel image that have a meaning to
// systemd-stub 257, in the order in which it measures them into PCR 11 (UAPI
// Group Specification 5, Unified Kernel Image; systemd-stub(7)).
var UKISections = []string{
	".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname",
	".sbat", ".pcrsig", ".pcrpkey", ".profile", ".dtbauto", ".hwids",
}

// stubSections are the stub's own code and data.
var stubSections = map[string]bool{".text": true, ".rodata": true, ".data": true, ".sdmagic": true, ".reloc": true}

// UKI is a unified kernel image without profiles.
type UKI struct {
	*Image
	// Stub is the version of systemd-stub, empty if the image does not say.
	Stub     string
	sections map[string][]byte
}

// The stub names itself in a section of its own (src/boot/stub.c).
const (
	magicSection = ".sdmagic"
	magicPrefix  = "#### LoaderInfo: systemd-stub "
	magicSuffix  = " ####"
)

// ParseUKI reads an image and its UKI sections. Names must be unique: systemd-stub
// takes the first of two, other readers may not.
func ParseUKI(data []byte) (*UKI, error) {
	img, err := Parse(data)
	if err != nil {
		return nil, err
	}
	u := &UKI{Image: img, sections: make(map[string][]byte)}
	for _, s := range img.Sections {
		known := false
		for _, name := range UKISections {
			known = known || s.Name == name
		}
		switch {
		case s.Name == ".profile" || s.Name == ".dtbauto" || s.Name == ".hwids":
			return nil, fail(ReasonProfiles, "section %q makes the boot depend on more than the image", s.Name)
		case !known && !stubSections[s.Name]:
			return nil, fail(ReasonUnknownSection, "section %q", s.Name)
		case s.Name == magicSection:
			magic, err := img.Content(s)
			if err != nil {
				return nil, err
			}
			u.Stub = stubVersion(magic)
		case !known:
			continue
		}
		if _, twice := u.sections[s.Name]; twice {
			return nil, fail(ReasonOverlap, "two sections %q", s.Name)
		}
		if u.sections[s.Name], err = img.Content(s); err != nil {
			return nil, err
		}
	}
	if len(u.sections[".linux"]) == 0 {
		return nil, fail(ReasonNotUKI, "no .linux section")
	}
	return u, nil
}

// Section returns a section's content and whether the image has it.
func (u *UKI) Section(name string) ([]byte, bool) {
	content, ok := u.sections[name]
	return content, ok
}

func stubVersion(magic []byte) string {
	text, _, _ := bytes.Cut(magic, []byte{0})
	version, ok := bytes.CutPrefix(text, []byte(magicPrefix))
	if !ok {
		return ""
	}
	version, _ = bytes.CutSuffix(version, []byte(magicSuffix))
	return string(version)
}
