// SPDX-License-Identifier: Apache-2.0

package keyservice

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"

	api "github.com/constellation-os/constellation/services/api/keyservice"
)

// wipingCodec is gRPC's own, but overwrites the key of a response once it is
// encoded. The encoded form is gRPC's, which overwrites its buffers when it uses
// them again.
type wipingCodec struct{ encoding.CodecV2 }

func newCodec() encoding.CodecV2 { return wipingCodec{encoding.GetCodecV2(proto.Name)} }

// Marshal implements [encoding.CodecV2].
func (c wipingCodec) Marshal(v any) (mem.BufferSlice, error) {
	out, err := c.CodecV2.Marshal(v)
	if response, ok := v.(*api.GetDataKeyResponse); ok {
		clear(response.Key)
	}
	return out, err
}
