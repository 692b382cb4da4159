// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Pauses between attempts, and how long an API server that has just started may
// refuse what it will take: it makes its own roles, kubeadm's and our namespaces
// after it has begun to answer.
const (
	firstPause = 250 * time.Millisecond
	maxPause   = 4 * time.Second
	settle     = time.Minute
)

// retry calls attempt until it succeeds, fails for good or the context ends. failed
// is told of each reason to try again. What an attempt says that the end cut off is no
// reason: the error has the one before.
func retry(ctx context.Context, attempt func() error, failed func(error)) error {
	pause := firstPause
	var refusedSince time.Time
	var last error
	for {
		err := attempt()
		if err == nil {
			return nil
		}
		if last != nil && ctx.Err() != nil {
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		}
		last = err
		switch classify(err) {
		case permanent:
			return err
		case unsettled:
			if refusedSince.IsZero() {
				refusedSince = time.Now()
			}
			if time.Since(refusedSince) > settle {
				return err
			}
		case transient:
			// Whoever does not answer has not refused: it may be starting again.
			refusedSince = time.Time{}
		}
		failed(err)
		if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
			pause = max(pause, min(maxPause, time.Duration(seconds)*time.Second))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

// untyped is how the API server begins to say that an object has a field which its
// kind has not. It does so with status 500 and no reason, as it does for errors of
// etcd.
const untyped = "failed to create typed patch object"

type class int

const (
	permanent class = iota
	transient       // nothing or nobody answers, or is overloaded
	unsettled       // refused, as it is for a while after a start
)

func classify(err error) class {
	var kind unknownKind
	var certificate *tls.CertificateVerificationError
	var network net.Error
	var address *url.Error
	switch {
	case errors.As(err, &kind), apierrors.IsForbidden(err), apierrors.IsNotFound(err):
		return unsettled
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsUnauthorized(err), apierrors.IsMethodNotSupported(err),
		apierrors.IsRequestEntityTooLargeError(err), apierrors.IsNotAcceptable(err), apierrors.IsUnsupportedMediaType(err):
		return permanent
	case strings.HasPrefix(err.Error(), untyped):
		return permanent
	case errors.As(err, &certificate):
		// Another server than the one that we were told of.
		return permanent
	case errors.As(err, &address), errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return transient
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		// What is left is conflicts, timeouts, too many requests, and errors of the server.
		return transient
	}
	return permanent
}
