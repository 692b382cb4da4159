// SPDX-License-Identifier: Apache-2.0

package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/constellation-os/constellation/measurements/printable"
)

// MinProgress is how many bytes a source must send within Options.Stall, unless there is less left.
const MinProgress = 256 << 10

// errRange says that what is there is not a beginning of what the source has.
var errRange = errors.New("it does not continue what is there")

// diskError is an error of this node's disk, which no other source helps against.
type diskError struct{ err error }

func (e *diskError) Error() string { return e.err.Error() }

// attempt makes one request for the rest of some content. Without an error, all of its size is there.
func (f *fetcher) attempt(ctx context.Context, s *source, b blob, d *download) error {
	if d.size == b.size {
		return errRange // not the right content, or it would not be asked for
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(f.sources.stall, func() { cancel(ErrStalled) })
	defer timer.Stop()
	response, err := s.get(ctx, b, d.size)
	if err != nil {
		return reason(ctx, err, ErrUnreachable)
	}
	defer response.Body.Close()
	if err := f.checkAnswer(response, b, d); err != nil {
		return err
	}
	return f.receive(ctx, response.Body, b, d, timer)
}

func (f *fetcher) checkAnswer(response *http.Response, b blob, d *download) error {
	switch response.StatusCode {
	case http.StatusOK: // of all, whatever was asked for
		f.progress.add(b, -d.size)
		if err := d.restart(); err != nil {
			return &diskError{err}
		}
	case http.StatusPartialContent:
		if !strings.HasPrefix(response.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(d.size, 10)+"-") {
			return errRange
		}
	case http.StatusRequestedRangeNotSatisfiable:
		return errRange
	case http.StatusNotFound:
		return ErrMissing
	default:
		return fmt.Errorf("%w: HTTP status %d", ErrStatus, response.StatusCode)
	}
	if n := response.ContentLength; n >= 0 && d.size+n != b.size {
		return fmt.Errorf("%w: %d bytes, not %d", ErrSize, d.size+n, b.size)
	}
	return nil
}

// receive reads the rest of the content. timer ends ctx unless enough arrives.
func (f *fetcher) receive(ctx context.Context, body io.Reader, b blob, d *download, timer *time.Timer) error {
	buffer := make([]byte, 128<<10)
	var recent int64
	for {
		n, err := body.Read(buffer)
		if d.size+int64(n) > b.size {
			return fmt.Errorf("%w: more than %d bytes", ErrSize, b.size)
		}
		if n > 0 {
			if _, err := d.Write(buffer[:n]); err != nil {
				return &diskError{err}
			}
			f.progress.add(b, int64(n))
		}
		if recent += int64(n); recent >= MinProgress {
			recent = 0
			timer.Reset(f.sources.stall)
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF) && d.size == b.size:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%w: after %d of %d bytes", ErrTruncated, d.size, b.size)
		default:
			return reason(ctx, err, ErrTruncated)
		}
	}
}

// reason says why a request failed, without repeating what a stranger says at length.
func reason(ctx context.Context, err, class error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	for _, known := range []error{ErrRedirect, ErrStatus} {
		if errors.Is(err, known) {
			return known
		}
	}
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	return fmt.Errorf("%w: %s", class, printable.Text(err.Error(), 200))
}
