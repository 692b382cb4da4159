// SPDX-License-Identifier: Apache-2.0

// Package secretcodec is gRPC's own codec, but overwrites the secrets of a message
// once it is encoded. The encoded form is gRPC's, which overwrites its buffers when
// it uses them again.
package secretcodec

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

type codec struct {
	encoding.CodecV2
	wipe func(message any)
}

// New makes a codec that calls wipe with each message that it has encoded.
func New(wipe func(message any)) encoding.CodecV2 {
	return codec{encoding.GetCodecV2(proto.Name), wipe}
}

// Marshal implements [encoding.CodecV2].
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	out, err := c.CodecV2.Marshal(v)
	c.wipe(v)
	return out, err
}
