// SPDX-License-Identifier: Apache-2.0

package attestation

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Limits of DecodeStrict beside the size.
const (
	maxFields = 512 // fields in a message and all messages inside it
	maxDepth  = 4   // messages inside messages
)

// DecodeStrict decodes a protobuf message for technologies' payloads: at most
// limit bytes, no field that is unknown, of another wire type, or repeated where
// only one is defined, and few enough fields that the decoded form stays within
// a small multiple of the limit. Its errors are refusals with ReasonTooLarge or
// ReasonMalformed.
func DecodeStrict(data []byte, limit int, into proto.Message) error {
	if len(data) > limit {
		return Refuse(ReasonTooLarge, "%d bytes, at most %d", len(data), limit)
	}
	fields := 0
	if err := walk(data, into.ProtoReflect().Descriptor(), maxDepth, &fields); err != nil {
		return err
	}
	if err := (proto.UnmarshalOptions{RecursionLimit: maxDepth + 1}).Unmarshal(data, into); err != nil {
		return Refuse(ReasonMalformed, "not the protobuf message that it should be")
	}
	return nil
}

// walk looks at the encoding only: protobuf's own decoder keeps unknown fields,
// takes the last of several, and allocates for every element it is sent.
func walk(data []byte, d protoreflect.MessageDescriptor, depth int, fields *int) error {
	if depth == 0 {
		return Refuse(ReasonMalformed, "messages more than %d deep", maxDepth)
	}
	var seen uint64
	for len(data) > 0 {
		number, wire, n := protowire.ConsumeTag(data)
		if n < 0 {
			return Refuse(ReasonMalformed, "broken field of %s", d.Name())
		}
		data = data[n:]
		if *fields++; *fields > maxFields {
			return Refuse(ReasonTooLarge, "more than %d fields", maxFields)
		}
		f := d.Fields().ByNumber(number)
		if f == nil || number >= 64 || wire != wireType(f) {
			return Refuse(ReasonMalformed, "unknown field %d of %s", number, d.Name())
		}
		if seen&(1<<number) != 0 && !f.IsList() {
			return Refuse(ReasonMalformed, "%s twice in %s", f.Name(), d.Name())
		}
		seen |= 1 << number
		if n = protowire.ConsumeFieldValue(number, wire, data); n < 0 {
			return Refuse(ReasonMalformed, "%s of %s is cut short", f.Name(), d.Name())
		}
		if f.Message() != nil {
			value, _ := protowire.ConsumeBytes(data)
			if err := walk(value, f.Message(), depth-1, fields); err != nil {
				return err
			}
		}
		data = data[n:]
	}
	return nil
}

// wireType is how a field of evidence.proto is encoded: its scalars are unsigned
// integers, and none of its lists is packed.
func wireType(f protoreflect.FieldDescriptor) protowire.Type {
	switch f.Kind() {
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		return protowire.VarintType
	}
	return protowire.BytesType
}
