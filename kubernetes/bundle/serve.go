// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"net/http"
	"os"
	"strconv"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Handler serves the bundle as a registry that can be read, after the OCI
// Distribution Specification 1.1: manifests and blobs by digest, ranges of blobs
// included. Images have no tags. What is served is what is in the folder at that
// moment; nodes check it.
func (b *Bundle) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte("{}"))
	})
	mux.HandleFunc("GET /v2/{name}/manifests/{digest}", func(w http.ResponseWriter, r *http.Request) {
		img := b.images[r.PathValue("name")]
		if img == nil || r.PathValue("digest") != img.component.Digest {
			refuse(w, "MANIFEST_UNKNOWN", "this bundle has no such manifest; images have no tags here")
			return
		}
		b.serve(w, r, img.component.Digest, v1.MediaTypeImageManifest)
	})
	mux.HandleFunc("GET /v2/{name}/blobs/{digest}", func(w http.ResponseWriter, r *http.Request) {
		img := b.images[r.PathValue("name")]
		if img == nil {
			refuse(w, "NAME_UNKNOWN", "this bundle has no such image")
			return
		}
		blob, ok := img.blobs[r.PathValue("digest")]
		if !ok {
			refuse(w, "BLOB_UNKNOWN", "the image has no such blob")
			return
		}
		b.serve(w, r, string(blob.Digest), "application/octet-stream")
	})
	return mux
}

func (b *Bundle) serve(w http.ResponseWriter, r *http.Request, digest, mediaType string) {
	f, err := os.Open(b.blobPath(digest))
	if err != nil {
		refuse(w, "BLOB_UNKNOWN", "the bundle has lost this blob")
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("ETag", strconv.Quote(digest))
	http.ServeContent(w, r, "", time.Time{}, f)
}

// refuse answers as registries do. code and message are constants.
func refuse(w http.ResponseWriter, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	_, _ = w.Write([]byte(`{"errors":[{"code":"` + code + `","message":"` + message + `"}]}`))
}
