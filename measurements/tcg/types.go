// SPDX-License-Identifier: Apache-2.0

package tcg

import (
	"fmt"
	"unicode/utf16"

	"github.com/constellation-os/constellation/measurements/printable"
)

// EventType is an event's label (PFP section 10.4.1). It is not measured.
type EventType uint32

// Event types that OVMF, systemd-stub and Linux write.
const (
	PostCode                EventType = 0x01
	NoAction                EventType = 0x03
	Separator               EventType = 0x04
	Action                  EventType = 0x05
	EventTag                EventType = 0x06
	CRTMContents            EventType = 0x07
	CRTMVersion             EventType = 0x08
	PlatformConfigFlags     EventType = 0x0a
	TableOfDevices          EventType = 0x0b
	IPL                     EventType = 0x0d
	IPLPartitionData        EventType = 0x0e
	NonhostCode             EventType = 0x0f
	NonhostConfig           EventType = 0x10
	NonhostInfo             EventType = 0x11
	EFIVariableDriverConfig EventType = 0x80000001
	EFIVariableBoot         EventType = 0x80000002
	EFIBootServicesApp      EventType = 0x80000003
	EFIBootServicesDriver   EventType = 0x80000004
	EFIRuntimeDriver        EventType = 0x80000005
	EFIGPT                  EventType = 0x80000006
	EFIAction               EventType = 0x80000007
	EFIPlatformBlob         EventType = 0x80000008
	EFIHandoffTables        EventType = 0x80000009
	EFIPlatformBlob2        EventType = 0x8000000a
	EFIHandoffTables2       EventType = 0x8000000b
	EFIVariableBoot2        EventType = 0x8000000c
	EFIVariableAuthority    EventType = 0x800000e0
)

var typeNames = map[EventType]string{
	PostCode:                "EV_POST_CODE",
	NoAction:                "EV_NO_ACTION",
	Separator:               "EV_SEPARATOR",
	Action:                  "EV_ACTION",
	EventTag:                "EV_EVENT_TAG",
	CRTMContents:            "EV_S_CRTM_CONTENTS",
	CRTMVersion:             "EV_S_CRTM_VERSION",
	PlatformConfigFlags:     "EV_PLATFORM_CONFIG_FLAGS",
	TableOfDevices:          "EV_TABLE_OF_DEVICES",
	IPL:                     "EV_IPL",
	IPLPartitionData:        "EV_IPL_PARTITION_DATA",
	NonhostCode:             "EV_NONHOST_CODE",
	NonhostConfig:           "EV_NONHOST_CONFIG",
	NonhostInfo:             "EV_NONHOST_INFO",
	EFIVariableDriverConfig: "EV_EFI_VARIABLE_DRIVER_CONFIG",
	EFIVariableBoot:         "EV_EFI_VARIABLE_BOOT",
	EFIBootServicesApp:      "EV_EFI_BOOT_SERVICES_APPLICATION",
	EFIBootServicesDriver:   "EV_EFI_BOOT_SERVICES_DRIVER",
	EFIRuntimeDriver:        "EV_EFI_RUNTIME_SERVICES_DRIVER",
	EFIGPT:                  "EV_EFI_GPT_EVENT",
	EFIAction:               "EV_EFI_ACTION",
	EFIPlatformBlob:         "EV_EFI_PLATFORM_FIRMWARE_BLOB",
	EFIHandoffTables:        "EV_EFI_HANDOFF_TABLES",
	EFIPlatformBlob2:        "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
	EFIHandoffTables2:       "EV_EFI_HANDOFF_TABLES2",
	EFIVariableBoot2:        "EV_EFI_VARIABLE_BOOT2",
	EFIVariableAuthority:    "EV_EFI_VARIABLE_AUTHORITY",
}

// String is the specification's name of the type.
func (t EventType) String() string {
	if s, ok := typeNames[t]; ok {
		return s
	}
	return fmt.Sprintf("EV_%#08x", uint32(t))
}

// maxDescription bounds what Describe returns, in bytes.
const maxDescription = 160

// Describe makes printable text of what the measurer logged. It comes from the
// machine under judgement: show it to people, decide nothing by it.
func (e *Event) Describe() string {
	var s string
	switch e.Type {
	case EFIVariableDriverConfig, EFIVariableBoot, EFIVariableBoot2, EFIVariableAuthority:
		s = variableName(e.Data)
	case CRTMVersion, IPL:
		s = text(e.Data)
	case EFIPlatformBlob2, EFIHandoffTables2:
		if len(e.Data) > 0 && int(e.Data[0]) <= len(e.Data)-1 {
			s = text(e.Data[1 : 1+int(e.Data[0])])
		}
	case EventTag:
		if len(e.Data) >= 8 {
			s = text(e.Data[8:])
		}
	case Separator, EFIPlatformBlob, EFIHandoffTables, EFIGPT, EFIBootServicesApp, EFIBootServicesDriver, EFIRuntimeDriver:
		s = ""
	default:
		s = text(e.Data)
	}
	if len(s) > maxDescription {
		s = s[:maxDescription] + "..."
	}
	return s
}

// variableName extracts the name of a UEFI_VARIABLE_DATA (PFP section 10.2.6).
func variableName(data []byte) string {
	r := &reader{buf: data}
	r.take(16)
	n := r.u32()
	r.take(4 + 8)
	if r.err != nil || n > 512 {
		return ""
	}
	return utf16Text(r.take(2 * int(n)))
}

// text prints data that may be UTF-16, as OVMF and systemd-stub write, or ASCII.
func text(data []byte) string {
	if len(data) >= 4 && len(data)%2 == 0 && data[1] == 0 {
		return utf16Text(data)
	}
	return printable.Text(data, 4*maxDescription)
}

func utf16Text(data []byte) string {
	if len(data) > 4*maxDescription {
		data = data[:4*maxDescription]
	}
	units := make([]uint16, 0, len(data)/2)
	for i := 0; i+1 < len(data); i += 2 {
		units = append(units, uint16(data[i])|uint16(data[i+1])<<8)
	}
	return printable.Text(string(utf16.Decode(units)), 4*maxDescription)
}
