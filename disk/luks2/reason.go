// SPDX-License-Identifier: Apache-2.0

package luks2

import (
	"errors"
	"fmt"
)

// Reason says why a header was refused.
type Reason string

// Reasons. All but ReasonUnauthentic come from [Parse]: the bytes alone are wrong.
const (
	ReasonNoHeader    Reason = "no-header"      // not a LUKS header
	ReasonVersion     Reason = "version"        // of LUKS
	ReasonLayout      Reason = "layout"         // sizes, offsets, padding of the binary header
	ReasonChecksum    Reason = "checksum"       // torn, rotten, or changed without care
	ReasonForeign     Reason = "foreign"        // LUKS2, but not a state disk's label
	ReasonUUID        Reason = "uuid"           // not a UUID
	ReasonMetadata    Reason = "metadata"       // not JSON of the expected fields, or not spelled as we do
	ReasonKeyslots    Reason = "keyslots"       // number, place, size or cipher of key slots
	ReasonKDF         Reason = "key-derivation" // of a key slot
	ReasonCipher      Reason = "cipher"         // of the data
	ReasonKeySize     Reason = "key-size"       // of the data's cipher
	ReasonSegments    Reason = "segments"       // number, place or kind of data segments
	ReasonIntegrity   Reason = "integrity"      // the data would not be authenticated, or in another way
	ReasonDigests     Reason = "digests"        // of the volume key
	ReasonTokens      Reason = "tokens"         // number or content of tokens
	ReasonUnauthentic Reason = "unauthentic"    // no token has a MAC under this key: another key, or a changed header
	ReasonSlotContent Reason = "slot-content"   // an authentic header's key slot does not hold the volume key
)

// Error is a refusal.
type Error struct {
	Reason Reason
	// Detail says what was found, in our words: never text from the disk.
	Detail string
}

func (e *Error) Error() string {
	return fmt.Sprintf("the disk's header is refused (%s): %s", e.Reason, e.Detail)
}

// ReasonOf returns the reason of a refusal, or nothing.
func ReasonOf(err error) Reason {
	var refusal *Error
	if errors.As(err, &refusal) {
		return refusal.Reason
	}
	return ""
}

func refuse(reason Reason, detail string, values ...any) error {
	return &Error{Reason: reason, Detail: fmt.Sprintf(detail, values...)}
}
