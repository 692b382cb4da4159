// SPDX-License-Identifier: Apache-2.0

// Package verificationservice holds the messages and the gRPC service of verificationservice.proto.
// It is a format and nothing more: services/verificationservice serves it, and
// services/verificationservice/client asks.
//
// The generated code is committed. It was made by protoc 3.21.12 (Debian's
// protobuf-compiler) and the plugins that go.mod pins.
package verificationservice

//go:generate sh -c "protoc --plugin=protoc-gen-go=$(go tool -n protoc-gen-go) --plugin=protoc-gen-go-grpc=$(go tool -n protoc-gen-go-grpc) --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative verificationservice.proto"
