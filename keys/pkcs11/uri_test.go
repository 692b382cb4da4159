// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/constellation-os/constellation/keys"
)

func TestParseURI(t *testing.T) {
	for _, tc := range []struct {
		uri  string
		want URI
		text string
	}{
		{
			"pkcs11:token=prod;object=constellation?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin",
			URI{Token: "prod", Object: "constellation", ModulePath: "/usr/lib/softhsm/libsofthsm2.so", PINSource: "/run/pin"},
			"pkcs11:token=prod;object=constellation",
		},
		{
			// Escapes and the id as in section 3 of RFC 7512.
			"pkcs11:token=Software%20PKCS%2311%20softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;serial=1A;id=%69%95%3E%00;type=secret-key?pin-source=file:///etc/token&module-path=/lib/x+y.so",
			URI{
				Token: "Software PKCS#11 softtoken", Manufacturer: "Snake Oil, Inc.", Model: "1.0", Serial: "1A", ID: "i\x95>\x00",
				ModulePath: "/lib/x+y.so", PINSource: "/etc/token",
			},
			"pkcs11:token=Software%20PKCS%2311%20softtoken;manufacturer=Snake%20Oil%2C%20Inc.;serial=1A;model=1.0;id=i%95%3E%00",
		},
		{"PKCS11:id=%01?module-path=/x&pin-source=/pin", URI{ID: "\x01", ModulePath: "/x", PINSource: "/pin"}, "pkcs11:id=%01"},
	} {
		got, err := ParseURI(tc.uri)
		if err != nil {
			t.Errorf("%s: %v", tc.uri, err)
			continue
		}
		if d := cmp.Diff(&tc.want, got); d != "" {
			t.Errorf("%s: %s", tc.uri, d)
		}
		if got.String() != tc.text {
			t.Errorf("printed as %s, want %s", got, tc.text)
		}
	}
}

func TestParseURIRefuses(t *testing.T) {
	const secret = "1234567"
	for uri, says := range map[string]string{
		"":                                                            "starts with pkcs11:",
		"http://x?module-path=/x":                                     "starts with pkcs11:",
		"pkcs11:?module-path=/x":                                      "names no key",
		"pkcs11:token=t?module-path=/x":                               "names no key",
		"pkcs11:object=o":                                             "module-path must be",
		"pkcs11:object=o?module-path=x.so":                            "module-path must be",
		"pkcs11:object=o?module-path=/a/../x.so":                      "module-path must be",
		"pkcs11:object=o;object=p?module-path=/x":                     `"object" is there twice`,
		"pkcs11:object=o;?module-path=/x":                             `attribute "" is not one of`,
		"pkcs11:object=o;slot-id=1?module-path=/x":                    `attribute "slot-id" is not one of`,
		"pkcs11:object=?module-path=/x":                               `attribute "object" has no value`,
		"pkcs11:object=%zz?module-path=/x":                            `attribute "object" has no value`,
		"pkcs11:object=o;type=private?module-path=/x":                 "type secret-key",
		"pkcs11:object=o?module-path=/x&module-path=/y":               `"module-path" 2 times`,
		"pkcs11:object=o?module-path=/x&module-name=y":                `no "module-name"`,
		"pkcs11:object=o?module-path=/x&pin-value=" + secret:          "a PIN does not belong into a URI",
		"pkcs11:object=o?module-path=/x&pin-source=":                  "pin-source must be",
		"pkcs11:object=o?module-path=/x&pin-source=|" + secret:        "pin-source must be",
		"pkcs11:object=o?module-path=/x&pin-source=https://" + secret: "pin-source must be",
		"pkcs11:object=o?module-path=/x#f":                            "no fragment",
		"pkcs11:object=" + strings.Repeat("x", maxURI):                "more than 2048 bytes",
	} {
		_, err := ParseURI(uri)
		if keys.ClassOf(err) != keys.ClassInvalid || !strings.Contains(err.Error(), says) {
			t.Errorf("%.60s: got %v, want it to say %q", uri, err, says)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("%q quotes the secret", err)
		}
	}
}

func FuzzParseURI(f *testing.F) {
	f.Add("pkcs11:token=prod;object=constellation?module-path=/usr/lib/x.so&pin-source=file:/run/pin")
	f.Add("pkcs11:id=%00%ff?module-path=/x")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURI(s)
		if err != nil {
			if keys.ClassOf(err) != keys.ClassInvalid {
				t.Fatal(err)
			}
			return
		}
		again, err := ParseURI(u.String() + "?module-path=/x")
		if err != nil {
			t.Fatalf("%s: %v", u, err)
		}
		again.ModulePath, again.PINSource = u.ModulePath, u.PINSource
		if d := cmp.Diff(u, again); d != "" {
			t.Fatal(d)
		}
	})
}
