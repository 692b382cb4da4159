// SPDX-License-Identifier: Apache-2.0

package verificationservice

// Ports that the service has on each node.
const (
	Port     = 9446 // gRPC
	HTTPPort = 9447
)

// Paths of the service by HTTP, where a nonce is in hexadecimal or base64, and
// challenges and answers are one line of base64:
//
//	POST /v1/evidence               nonce -> evidence (package attestation/evidencejson)
//	POST /v1/response?nonce=NONCE   challenge -> answer
const (
	EvidencePath = "/v1/evidence"
	ResponsePath = "/v1/response"
)

// HTTPRefusal is message Refusal as a caller by HTTP gets it.
type HTTPRefusal struct {
	Reason string `json:"reason"`
	// Detail is for people.
	Detail string `json:"detail"`
	// RetryAfter is when trying again may help, in seconds; absent if it will not.
	RetryAfter uint32 `json:"retry_after_seconds,omitempty"`
}
