// SPDX-License-Identifier: Apache-2.0

// Package diskmapper holds the messages and the gRPC service of diskmapper.proto.
// It is a format and nothing more: services/diskmapper serves it.
//
// The generated code is committed. It was made by protoc 3.21.12 (Debian's
// protobuf-compiler) and the plugins that go.mod pins.
package diskmapper

//go:generate sh -c "GOBIN=${TMPDIR:-/tmp} go install google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc && PATH=${TMPDIR:-/tmp}:$PATH protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative diskmapper.proto"
