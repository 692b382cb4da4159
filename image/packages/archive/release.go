// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// DefaultKeyring is where Debian installs the keys of its archives.
const DefaultKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

const maxSignatures = 16

// Reasons for which a release file is refused. Errors wrap them.
var (
	ErrUnsigned   = errors.New("no valid signature by a key of the keyring")
	ErrExpired    = errors.New("the release file is past its Valid-Until")
	ErrWrongSuite = errors.New("the release file is for another suite")
)

// A Release is the content of a release file whose signature was verified.
type Release struct {
	Origin     string
	Label      string
	Codename   string
	Date       time.Time
	ValidUntil time.Time // zero if the archive sets no end
	Signers    []string  // fingerprints of the keys whose signatures are good
	files      map[string]File
}

// A File is what a signed document says about another file.
type File struct {
	Size   int64
	SHA256 string // lower-case hexadecimal
}

// ReadKeyring reads an OpenPGP keyring of the machine.
func ReadKeyring(path string) (openpgp.EntityList, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("keyring %s does not exist: install the package debian-archive-keyring, or name another keyring with -keyring", path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	keys, err := openpgp.ReadKeyRing(io.LimitReader(f, 16<<20))
	if err != nil {
		return nil, fmt.Errorf("keyring %s: %w", path, err)
	}
	return keys, nil
}

// VerifyRelease checks an InRelease file: one clear-signed message, nothing
// around it, at least one good signature by a key of the keyring at the time
// now, and the code name that was asked for. Only signed text is interpreted.
// A file past its Valid-Until gives ErrExpired together with the release, so
// that a caller who was told to may use it all the same.
func VerifyRelease(inRelease []byte, keyring openpgp.EntityList, codename string, now time.Time) (*Release, error) {
	if !bytes.HasPrefix(inRelease, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) {
		return nil, fmt.Errorf("%w: not a clear-signed message", ErrUnsigned)
	}
	block, rest := clearsign.Decode(inRelease)
	if block == nil {
		return nil, fmt.Errorf("%w: damaged or truncated clear-signed message", ErrUnsigned)
	}
	if len(bytes.TrimSpace(rest)) != 0 {
		return nil, fmt.Errorf("%w: text after the signature", ErrUnsigned)
	}
	signers, err := goodSigners(block, keyring, now)
	if err != nil {
		return nil, err
	}
	release, err := parseRelease(block.Plaintext)
	if err != nil {
		return nil, fmt.Errorf("release file: %w", err)
	}
	release.Signers = signers
	if release.Codename != codename {
		return nil, fmt.Errorf("%w: asked for %q, got %q", ErrWrongSuite, codename, release.Codename)
	}
	if !release.ValidUntil.IsZero() && now.After(release.ValidUntil) {
		return release, fmt.Errorf("%w: it ended %s", ErrExpired, release.ValidUntil.Format(time.RFC3339))
	}
	return release, nil
}

// goodSigners checks each signature on its own: Debian signs with the keys of
// several releases, and a machine need not know all of them.
func goodSigners(block *clearsign.Block, keyring openpgp.EntityList, now time.Time) ([]string, error) {
	config := &packet.Config{Time: func() time.Time { return now }}
	packets := packet.NewOpaqueReader(io.LimitReader(block.ArmoredSignature.Body, 1<<20))
	var signers []string
	var failures []error
	for n := 0; n < maxSignatures; n++ {
		opaque, err := packets.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			failures = append(failures, err)
			break
		}
		var one bytes.Buffer
		if err := opaque.Serialize(&one); err != nil {
			return nil, fmt.Errorf("signature packet: %w", err)
		}
		signer, err := openpgp.CheckDetachedSignature(keyring, bytes.NewReader(block.Bytes), &one, config)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		signers = append(signers, hex.EncodeToString(signer.PrimaryKey.Fingerprint))
	}
	if len(signers) == 0 {
		return nil, fmt.Errorf("%w: %w", ErrUnsigned, errors.Join(failures...))
	}
	return signers, nil
}

func parseRelease(text []byte) (*Release, error) {
	var stanza Stanza
	for s, err := range Stanzas(bytes.NewReader(text)) {
		if err != nil {
			return nil, err
		}
		if stanza != nil {
			return nil, errors.New("more than one stanza")
		}
		stanza = s
	}
	release := &Release{Origin: stanza["origin"], Label: stanza["label"], Codename: stanza["codename"], files: map[string]File{}}
	var err error
	if release.Date, err = time.Parse(time.RFC1123, stanza["date"]); err != nil {
		return nil, fmt.Errorf("date: %w", err)
	}
	if until, ok := stanza["valid-until"]; ok {
		if release.ValidUntil, err = time.Parse(time.RFC1123, until); err != nil {
			return nil, fmt.Errorf("valid-until: %w", err)
		}
	}
	for line := range strings.Lines(stanza["sha256"]) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 3 {
			return nil, fmt.Errorf("checksum line %q has not three fields", strings.TrimSpace(line))
		}
		size, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil || size < 0 || !validSHA256(fields[0]) {
			return nil, fmt.Errorf("checksum line %q is malformed", strings.TrimSpace(line))
		}
		release.files[fields[2]] = File{Size: size, SHA256: fields[0]}
	}
	return release, nil
}

// File returns what the release says about one of its files.
func (r *Release) File(path string) (File, error) {
	file, ok := r.files[path]
	if !ok {
		return File{}, fmt.Errorf("the release file of %s lists no %s", r.Codename, path)
	}
	return file, nil
}

func validSHA256(s string) bool {
	if len(s) != 64 || strings.ToLower(s) != s {
		return false
	}
	_, err := hex.DecodeString(s)
	return err == nil
}
