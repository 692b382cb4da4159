// SPDX-License-Identifier: Apache-2.0

// Package api holds the messages of evidence.proto. It is a format and nothing
// more: a decoded message has been checked for nothing, neither for its sizes
// nor for what it claims. Package attestation and the technologies' packages do
// both; other code has no reason to import this one.
//
// The generated code is committed. It was made by protoc 3.21.12 (Debian's
// protobuf-compiler) and the plugin that go.mod pins.
package api

//go:generate sh -c "go build -o ${TMPDIR:-/tmp}/protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go && protoc --plugin=${TMPDIR:-/tmp}/protoc-gen-go --go_out=. --go_opt=paths=source_relative evidence.proto"
