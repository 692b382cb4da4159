// SPDX-License-Identifier: Apache-2.0

package attestation_test

import (
	"bytes"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/constellation-os/constellation/attestation"
)

func TestNonceBinding(t *testing.T) {
	nonce := bytes.Repeat([]byte{0xa5}, 32)
	got, err := attestation.NonceBinding(nonce)
	if err != nil {
		t.Fatal(err)
	}
	if want := sha512.Sum512(slices.Concat([]byte("constellation evidence nonce v1"), nonce)); got != want {
		t.Errorf("binding %x, want %x", got, want)
	}
	if got == attestation.KeyBinding(nonce) {
		t.Error("a key's binding is a nonce's")
	}
	for _, size := range []int{0, 31, 65} {
		if _, err := attestation.NonceBinding(make([]byte, size)); attestation.ReasonOf(err) != attestation.ReasonBinding {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestParseNonce(t *testing.T) {
	raw := []byte(strings.Repeat("nonce <\xff>", 4))
	for name, tc := range map[string]struct {
		text string
		want attestation.Reason
	}{
		"hexadecimal":       {hex.EncodeToString(raw), 0},
		"upper case":        {strings.ToUpper(hex.EncodeToString(raw)), 0},
		"base64":            {base64.StdEncoding.EncodeToString(raw), 0},
		"nothing":           {"", attestation.ReasonBinding},
		"31 bytes":          {strings.Repeat("ab", 31), attestation.ReasonBinding},
		"31 bytes, base64":  {base64.StdEncoding.EncodeToString(raw[:31]), attestation.ReasonBinding},
		"65 bytes":          {strings.Repeat("ab", 65), attestation.ReasonTooLarge},
		"base64 for URLs":   {base64.URLEncoding.EncodeToString(raw), attestation.ReasonMalformed},
		"no padding":        {base64.RawStdEncoding.EncodeToString(raw[:32]), attestation.ReasonMalformed},
		"odd hexadecimal":   {hex.EncodeToString(raw)[1:], attestation.ReasonMalformed},
		"something else":    {"not a nonce", attestation.ReasonMalformed},
		"as long as a file": {strings.Repeat("a", 1<<20), attestation.ReasonTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := attestation.ParseNonce(tc.text)
			if attestation.ReasonOf(err) != tc.want || (tc.want == 0 && !bytes.Equal(got, raw)) {
				t.Errorf("got %x, %v, want %v", got, err, tc.want)
			}
		})
	}
}
