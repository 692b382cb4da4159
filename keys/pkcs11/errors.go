// SPDX-License-Identifier: Apache-2.0

//go:build cgo

package pkcs11

import (
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"github.com/constellation-os/constellation/keys"
)

// classes of return values (PKCS #11 2.40, section 5.1). What is not listed is
// ClassInternal.
var classes = map[p11.Error]keys.Class{
	p11.CKR_DEVICE_ERROR:         keys.ClassUnreachable,
	p11.CKR_DEVICE_REMOVED:       keys.ClassUnreachable,
	p11.CKR_TOKEN_NOT_PRESENT:    keys.ClassUnreachable,
	p11.CKR_TOKEN_NOT_RECOGNIZED: keys.ClassUnreachable,
	p11.CKR_SLOT_ID_INVALID:      keys.ClassUnreachable,
	p11.CKR_FUNCTION_FAILED:      keys.ClassUnreachable,
	p11.CKR_GENERAL_ERROR:        keys.ClassUnreachable,

	// Ours to repair: the connection is made anew.
	p11.CKR_SESSION_HANDLE_INVALID:   keys.ClassUnreachable,
	p11.CKR_SESSION_CLOSED:           keys.ClassUnreachable,
	p11.CKR_CRYPTOKI_NOT_INITIALIZED: keys.ClassUnreachable,
	p11.CKR_USER_NOT_LOGGED_IN:       keys.ClassUnreachable,

	p11.CKR_SESSION_COUNT: keys.ClassThrottled,
	p11.CKR_DEVICE_MEMORY: keys.ClassThrottled,
	p11.CKR_HOST_MEMORY:   keys.ClassThrottled,

	p11.CKR_PIN_INCORRECT:            keys.ClassNotPermitted,
	p11.CKR_PIN_INVALID:              keys.ClassNotPermitted,
	p11.CKR_PIN_LEN_RANGE:            keys.ClassNotPermitted,
	p11.CKR_PIN_EXPIRED:              keys.ClassNotPermitted,
	p11.CKR_PIN_LOCKED:               keys.ClassNotPermitted,
	p11.CKR_USER_PIN_NOT_INITIALIZED: keys.ClassNotPermitted,

	p11.CKR_KEY_HANDLE_INVALID:    keys.ClassKeyMissing,
	p11.CKR_OBJECT_HANDLE_INVALID: keys.ClassKeyMissing,

	p11.CKR_KEY_FUNCTION_NOT_PERMITTED: keys.ClassKeyDisabled,
	p11.CKR_MECHANISM_INVALID:          keys.ClassKeyDisabled,
	p11.CKR_KEY_TYPE_INCONSISTENT:      keys.ClassKeyDisabled,

	p11.CKR_ENCRYPTED_DATA_INVALID:   keys.ClassWrongKey,
	p11.CKR_ENCRYPTED_DATA_LEN_RANGE: keys.ClassWrongKey,
	aeadDecryptFailed:                keys.ClassWrongKey,
}

// advice says what to do about a return value.
var advice = map[p11.Error]string{
	p11.CKR_PIN_INCORRECT:              "the HSM refuses the PIN in pin-source",
	p11.CKR_PIN_LOCKED:                 "too many wrong PINs: the HSM's administrator must unlock it",
	p11.CKR_KEY_FUNCTION_NOT_PERMITTED: "the key may not do this: it needs CKA_ENCRYPT and CKA_DECRYPT",
	p11.CKR_USER_PIN_NOT_INITIALIZED:   "the token has no user PIN yet",
	p11.CKR_MECHANISM_INVALID:          "the HSM has no AES-GCM (CKM_AES_GCM)",
	p11.CKR_KEY_TYPE_INCONSISTENT:      "the key is not an AES key",
}

// aeadDecryptFailed is CKR_AEAD_DECRYPT_FAILED of PKCS #11 3.0, newer than the bindings.
const aeadDecryptFailed p11.Error = 0x42

const wrongKey = "authentication failed: wrapped by another key, for another purpose, or changed"

func classify(operation string, err error) error {
	if err == nil {
		return nil
	}
	var value p11.Error
	if !errors.As(err, &value) {
		return fmt.Errorf("%s: %w", operation, err)
	}
	class, ok := classes[value]
	if !ok {
		class = keys.ClassInternal
	}
	text := advice[value]
	if class == keys.ClassWrongKey {
		text = wrongKey
	}
	if text != "" {
		text += ", "
	}
	return keys.Errorf(class, "%s: %s%w", operation, text, err)
}

// classifyDecrypt is classify for what follows a DecryptInit that succeeded: some
// modules, SoftHSM 2.6 among them, then say CKR_GENERAL_ERROR for a wrong tag.
func classifyDecrypt(err error) error {
	var value p11.Error
	if errors.As(err, &value) && value == p11.CKR_GENERAL_ERROR {
		return keys.Errorf(keys.ClassWrongKey, "decrypt: %s, %w", wrongKey, err)
	}
	return classify("decrypt", err)
}
