// SPDX-License-Identifier: Apache-2.0

package install

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxRedirects is how many redirections a source may answer a request with.
const maxRedirects = 5

// maxSources is how many sources are asked at most.
const maxSources = 16

// sources are asked in their order, those that have failed last.
type sources struct {
	stall time.Duration

	mu   sync.Mutex
	list []*source
}

// source is one registry.
type source struct {
	name   string
	base   *url.URL
	client *http.Client
	token  token

	failures int // sources.mu
}

func newSources(o Options) (*sources, error) {
	if len(o.Sources) > maxSources {
		return nil, fmt.Errorf("%d sources, at most %d", len(o.Sources), maxSources)
	}
	out := &sources{stall: cmp.Or(o.Stall, DefaultStall)}
	transport := o.Transport
	if transport == nil {
		transport = &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSHandshakeTimeout: 10 * time.Second,
			ForceAttemptHTTP2:   true,
			// A length that is announced must be the content's.
			DisableCompression:     true,
			MaxIdleConnsPerHost:    cmp.Or(o.Parallel, DefaultParallel),
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
		}
	}
	client := &http.Client{Transport: transport, CheckRedirect: checkRedirect}
	for _, name := range o.Sources {
		base, err := url.Parse(name)
		if err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" {
			return nil, fmt.Errorf("source %q: want the URL of a registry, such as https://registry.example.org/mirror", name)
		}
		out.list = append(out.list, &source{name: name, base: base, client: client})
	}
	return out, nil
}

func checkRedirect(request *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects || (via[0].URL.Scheme == "https" && request.URL.Scheme != "https") {
		return ErrRedirect
	}
	return nil
}

func (s *sources) inOrder() []*source {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.list)
	slices.SortStableFunc(out, func(a, b *source) int { return cmp.Compare(min(a.failures, 1), min(b.failures, 1)) })
	return out
}

func (s *sources) failed(which *source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	which.failures++
}

// get asks for content from an offset on.
func (s *source) get(ctx context.Context, b blob, offset int64) (*http.Response, error) {
	response, err := s.request(ctx, b, offset)
	if err != nil || response.StatusCode != http.StatusUnauthorized {
		return response, err
	}
	response.Body.Close()
	if err := s.authenticate(ctx, response.Header.Get("WWW-Authenticate")); err != nil {
		return nil, err
	}
	return s.request(ctx, b, offset)
}

func (s *source) request(ctx context.Context, b blob, offset int64) (*http.Response, error) {
	kind := "blobs"
	if b.manifest {
		kind = "manifests"
	}
	u := *s.base
	u.Path = "/v2" + strings.TrimSuffix(u.Path, "/") + "/" + b.image + "/" + kind + "/" + b.digest
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if b.manifest {
		request.Header.Set("Accept", v1.MediaTypeImageManifest)
	}
	if offset > 0 {
		request.Header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
	}
	request.Header.Set("User-Agent", "constellation")
	if token := s.token.get(); token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	return s.client.Do(request)
}
