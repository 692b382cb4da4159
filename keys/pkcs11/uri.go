// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/managed"
)

// Scheme of the URIs.
const Scheme = "pkcs11"

// maxURI is the longest URI in bytes.
const maxURI = 2048

// URI names one key encryption key (RFC 7512). Empty fields match anything.
type URI struct {
	// Path attributes (section 2.3).
	Token, Manufacturer, Serial, Model string
	Object                             string
	ID                                 string // bytes
	// Query attributes.
	ModulePath string // of the shared library, absolute
	PINSource  string // path of the file with the user's PIN; empty if there is none
}

// ParseURI reads a URI. It must name the module, and the key by object, id or
// both. Errors have [keys.ClassInvalid] and quote no value.
func ParseURI(s string) (*URI, error) {
	if len(s) > maxURI {
		return nil, keys.Errorf(keys.ClassInvalid, "a URI of more than %d bytes", maxURI)
	}
	scheme, rest, found := strings.Cut(s, ":")
	if !found || !strings.EqualFold(scheme, Scheme) {
		return nil, keys.Errorf(keys.ClassInvalid, "not a URI that starts with pkcs11:")
	}
	if strings.Contains(rest, "#") {
		return nil, keys.Errorf(keys.ClassInvalid, "a pkcs11: URI has no fragment")
	}
	path, query, _ := strings.Cut(rest, "?")
	var u URI
	if err := u.parsePath(path); err != nil {
		return nil, err
	}
	if err := u.parseQuery(query); err != nil {
		return nil, err
	}
	if u.Object == "" && u.ID == "" {
		return nil, keys.Errorf(keys.ClassInvalid, "the URI names no key: add object=LABEL or id=%%01")
	}
	return &u, nil
}

func (u *URI) parsePath(path string) error {
	fields := map[string]*string{
		"token": &u.Token, "manufacturer": &u.Manufacturer, "serial": &u.Serial, "model": &u.Model,
		"object": &u.Object, "id": &u.ID, "type": new(string),
	}
	var seen []string
	for part := range strings.SplitSeq(path, ";") {
		name, raw, found := strings.Cut(part, "=")
		field, known := fields[name]
		switch {
		case path == "":
			return nil
		case !known:
			return keys.Errorf(keys.ClassInvalid, "attribute %.20q is not one of token, manufacturer, serial, model, object, id, type", name)
		case slices.Contains(seen, name):
			return keys.Errorf(keys.ClassInvalid, "attribute %q is there twice", name)
		}
		value, err := url.PathUnescape(raw)
		if !found || err != nil || value == "" {
			return keys.Errorf(keys.ClassInvalid, "attribute %q has no value that can be decoded", name)
		}
		if name == "type" && value != "secret-key" {
			return keys.Errorf(keys.ClassInvalid, "the key must be of type secret-key")
		}
		seen = append(seen, name)
		*field = value
	}
	return nil
}

func (u *URI) parseQuery(query string) error {
	// Checked first, so that the error says why.
	if strings.Contains(query, "pin-value") {
		return keys.Errorf(keys.ClassInvalid, "a PIN does not belong into a URI: put it into a file and name that with pin-source=file:/PATH")
	}
	// In RFC 7512 a plus sign is itself.
	q, err := managed.Query(strings.ReplaceAll(query, "+", "%2B"), "module-path", "pin-source")
	if err != nil {
		return err
	}
	u.ModulePath = q["module-path"]
	if !filepath.IsAbs(u.ModulePath) || filepath.Clean(u.ModulePath) != u.ModulePath {
		return keys.Errorf(keys.ClassInvalid, "module-path must be the absolute path of the HSM's library")
	}
	source, given := q["pin-source"]
	u.PINSource = strings.TrimPrefix(strings.TrimPrefix(source, "file:"), "//")
	if given && !filepath.IsAbs(u.PINSource) {
		return keys.Errorf(keys.ClassInvalid, "pin-source must be the absolute path of a file")
	}
	return nil
}

// String is the URI without its query, which people need not see in every message.
func (u *URI) String() string {
	var parts []string
	for _, p := range []struct{ name, value string }{
		{"token", u.Token}, {"manufacturer", u.Manufacturer}, {"serial", u.Serial}, {"model", u.Model}, {"object", u.Object}, {"id", u.ID},
	} {
		if p.value != "" {
			parts = append(parts, p.name+"="+escape(p.value))
		}
	}
	return "pkcs11:" + strings.Join(parts, ";")
}

// escape leaves what RFC 3986 calls unreserved.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
