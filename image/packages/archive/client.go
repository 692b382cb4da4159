// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ulikunitz/xz"
)

// Limits of what is read from a mirror, in bytes.
const (
	maxRelease  = 4 << 20
	maxIndex    = 1 << 30
	MaxPackage  = 1 << 30
	stallLimit  = 60 * time.Second
	maxAttempts = 3
)

// ErrMissing says that no mirror has a file.
var ErrMissing = errors.New("the file is on none of the mirrors")

// A Client fetches from mirrors and checks what it gets.
type Client struct {
	Mirrors Mirrors
	Keyring openpgp.EntityList
	HTTP    *http.Client     // http.DefaultClient if nil
	Now     func() time.Time // time.Now if nil
}

// Release fetches and verifies the release file of one suite. See
// [VerifyRelease] for ErrExpired.
func (c *Client) Release(ctx context.Context, archiveName, suite string) (*Release, error) {
	now := time.Now
	if c.Now != nil {
		now = c.Now
	}
	text, err := c.fetch(ctx, archiveName, "dists/"+suite+"/InRelease", maxRelease, nil)
	if err != nil {
		return nil, err
	}
	release, err := VerifyRelease(text, c.Keyring, suite, now())
	if err != nil {
		err = fmt.Errorf("%s: %w", suite, err)
	}
	return release, err
}

// Index fetches the package index of one component and architecture, checks
// it against the release, and returns its packages.
func (c *Client) Index(ctx context.Context, archiveName, suite string, release *Release, component, architecture string) ([]*Package, error) {
	name := component + "/binary-" + architecture + "/Packages"
	plain, err := release.File(name)
	if err != nil {
		return nil, err
	}
	packed, err := release.File(name + ".xz")
	if err != nil {
		return nil, err
	}
	if plain.Size > maxIndex || packed.Size > maxIndex {
		return nil, fmt.Errorf("index %s of %s is longer than %d bytes", name, suite, maxIndex)
	}
	// The address by hash stays valid while a mirror is being updated.
	dir := "dists/" + suite + "/"
	data, err := c.fetch(ctx, archiveName, dir+path.Dir(name)+"/by-hash/SHA256/"+packed.SHA256, packed.Size, &packed)
	if errors.Is(err, ErrMissing) {
		data, err = c.fetch(ctx, archiveName, dir+name+".xz", packed.Size, &packed)
	}
	if err != nil {
		return nil, err
	}
	text, err := unxz(data, plain)
	if err != nil {
		return nil, fmt.Errorf("index %s of %s: %w", name, suite, err)
	}
	packages, err := parseIndex(bytes.NewReader(text), archiveName)
	if err != nil {
		return nil, fmt.Errorf("index %s of %s: %w", name, suite, err)
	}
	return packages, nil
}

// Package fetches the file of a package and checks it against the index.
func (c *Client) Package(ctx context.Context, p *Package) ([]byte, error) {
	if p.Size > MaxPackage {
		return nil, fmt.Errorf("%s is longer than %d bytes", p.Path, MaxPackage)
	}
	return c.fetch(ctx, p.Archive, p.Path, p.Size, &p.File)
}

func unxz(data []byte, want File) ([]byte, error) {
	r, err := xz.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(r, want.Size+1))
	if err != nil {
		return nil, err
	}
	return text, want.check(text)
}

func (want File) check(data []byte) error {
	if int64(len(data)) != want.Size {
		return fmt.Errorf("size differs: want %d bytes, got %d", want.Size, len(data))
	}
	sum := sha256.Sum256(data)
	if got := hex.EncodeToString(sum[:]); got != want.SHA256 {
		return fmt.Errorf("SHA-256 differs: want %s, got %s", want.SHA256, got)
	}
	return nil
}

// fetch tries each mirror of the archive in turn. A mirror that cannot be
// reached or breaks off is asked again; one that lacks the file or serves
// another content is not.
func (c *Client) fetch(ctx context.Context, archiveName, file string, limit int64, want *File) ([]byte, error) {
	var failures []error
	missing := true
	for _, base := range c.Mirrors[archiveName] {
		for attempt := 1; attempt <= maxAttempts; attempt++ {
			data, err := c.get(ctx, base+"/"+file, limit)
			if err == nil && want != nil {
				err = want.check(data)
			}
			if err == nil {
				return data, nil
			}
			var status *statusError
			if isStatus := errors.As(err, &status); !isStatus || status.code != http.StatusNotFound {
				missing = false
			}
			if attempt < maxAttempts && ctx.Err() == nil && retriable(err) {
				continue
			}
			failures = append(failures, fmt.Errorf("%s/%s: %w", base, file, err))
			break
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	if missing {
		failures = append([]error{ErrMissing}, failures...)
	}
	return nil, errors.Join(failures...)
}

type statusError struct{ code int }

func (e *statusError) Error() string {
	return fmt.Sprintf("the mirror answered %d %s", e.code, http.StatusText(e.code))
}

type transportError struct{ err error }

func (e *transportError) Error() string { return e.err.Error() }
func (e *transportError) Unwrap() error { return e.err }

func retriable(err error) bool {
	var transport *transportError
	var status *statusError
	return errors.As(err, &transport) || errors.As(err, &status) && status.code >= 500
}

// get reads one address, at most limit bytes, and gives up when nothing
// arrives for stallLimit.
func (c *Client) get(ctx context.Context, address string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(stallLimit, func() {
		cancel(fmt.Errorf("nothing arrived for %s", stallLimit))
	})
	defer stalled.Stop()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, &transportError{causeOf(ctx, err)}
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, &statusError{response.StatusCode}
	}
	var data bytes.Buffer
	body := io.LimitReader(response.Body, limit+1)
	for {
		_, err := io.CopyN(&data, body, 256<<10)
		stalled.Reset(stallLimit)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, &transportError{causeOf(ctx, err)}
		}
	}
	if int64(data.Len()) > limit {
		return nil, fmt.Errorf("longer than %d bytes", limit)
	}
	return data.Bytes(), nil
}

func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
