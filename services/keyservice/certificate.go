// SPDX-License-Identifier: Apache-2.0

package keyservice

import (
	"crypto/tls"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificatePause is how often certificate files are looked at, at most.
const certificatePause = 10 * time.Second

// certificate follows a certificate and its key in files: certificates are
// renewed while the service runs.
type certificate struct {
	certFile, keyFile string

	mu       sync.Mutex
	current  *tls.Certificate
	modified time.Time
	checked  time.Time
}

func newCertificate(certFile, keyFile string) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile}
	if err := c.load(time.Now()); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *certificate) load(now time.Time) error {
	c.checked = now
	info, err := os.Stat(c.certFile)
	if err != nil {
		return err
	}
	if info.ModTime().Equal(c.modified) {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return err
	}
	c.current, c.modified = &pair, info.ModTime()
	return nil
}

// get is for [tls.Config.GetCertificate]. While both files are being replaced they
// may not fit: the old certificate is used until they do.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.checked) >= certificatePause {
		if err := c.load(now); err != nil {
			slog.Error("the new certificate cannot be used, the old one is", "error", err, "expires", c.current.Leaf.NotAfter)
		}
	}
	return c.current, nil
}
