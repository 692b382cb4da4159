// SPDX-License-Identifier: Apache-2.0

package bundle_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

// TestHandler: manifests and blobs by digest, as the distribution specification has them.
func TestHandler(t *testing.T) {
	dir, b := made(t, nil)
	server := httptest.NewServer(b.Handler())
	defer server.Close()
	kubernetes, _ := b.Set().Image("kubernetes")
	pause, _ := b.Set().Image("pause")
	layer := layers(t, dir, kubernetes)[1]
	content, err := os.ReadFile(blob(dir, layer))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := os.ReadFile(blob(dir, kubernetes.Digest))
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		method, path, ranges string
		status               int
		body                 []byte
		mediaType            string
	}{
		"the API":               {"GET", "/v2/", "", 200, []byte("{}"), "application/json"},
		"a manifest":            {"GET", "/v2/kubernetes/manifests/" + kubernetes.Digest, "", 200, manifest, "application/vnd.oci.image.manifest.v1+json"},
		"a manifest's head":     {"HEAD", "/v2/kubernetes/manifests/" + kubernetes.Digest, "", 200, nil, "application/vnd.oci.image.manifest.v1+json"},
		"a blob":                {"GET", "/v2/kubernetes/blobs/" + layer, "", 200, content, "application/octet-stream"},
		"the end of a blob":     {"GET", "/v2/kubernetes/blobs/" + layer, "bytes=1000-", 206, content[1000:], "application/octet-stream"},
		"behind a blob":         {"GET", "/v2/kubernetes/blobs/" + layer, "bytes=99999999-", 416, nil, "text/plain; charset=utf-8"},
		"a tag":                 {"GET", "/v2/kubernetes/manifests/latest", "", 404, nil, "application/json"},
		"another's manifest":    {"GET", "/v2/kubernetes/manifests/" + pause.Digest, "", 404, nil, "application/json"},
		"another's blob":        {"GET", "/v2/pause/blobs/" + layer, "", 404, nil, "application/json"},
		"a manifest as blob":    {"GET", "/v2/kubernetes/blobs/" + kubernetes.Digest, "", 404, nil, "application/json"},
		"an unknown image":      {"GET", "/v2/other/manifests/" + kubernetes.Digest, "", 404, nil, "application/json"},
		"an unknown blob":       {"GET", "/v2/kubernetes/blobs/sha256:" + strings.Repeat("0", 64), "", 404, nil, "application/json"},
		"a path out of there":   {"GET", "/v2/kubernetes/blobs/..%2f..%2f..%2fcomponents.json", "", 404, nil, "application/json"},
		"a file of the folder":  {"GET", "/components.json", "", 404, nil, "text/plain; charset=utf-8"},
		"an upload":             {"POST", "/v2/kubernetes/blobs/uploads/", "", 404, nil, "text/plain; charset=utf-8"},
		"a change of manifests": {"PUT", "/v2/kubernetes/manifests/latest", "", 405, nil, "text/plain; charset=utf-8"},
	} {
		t.Run(name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), tc.method, server.URL+tc.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if tc.ranges != "" {
				request.Header.Set("Range", tc.ranges)
			}
			response, err := server.Client().Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != tc.status || (tc.status < 300 && !bytes.Equal(body, tc.body)) || response.Header.Get("Content-Type") != tc.mediaType {
				t.Errorf("status %d, %d bytes of %s", response.StatusCode, len(body), response.Header.Get("Content-Type"))
			}
		})
	}
}
