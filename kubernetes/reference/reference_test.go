// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"strings"
	"testing"
)

const hash = "b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c"

func TestPinned(t *testing.T) {
	for _, image := range []string{
		"constellation.local/kubernetes@sha256:" + hash,
		"registry.example:5000/some/where/core-dns_1@sha256:" + hash,
	} {
		if err := Pinned(image); err != nil {
			t.Error(err)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, test := range []struct{ name, image, says string }{
		{"nothing", "", "no image is named"},
		{"a tag", "constellation.local/etcd:installed", `image "constellation.local/etcd:installed" is not named by its digest, as NAME@sha256:DIGEST`},
		{"no digest", "constellation.local/etcd", "is not named by its digest"},
		{"an empty digest", "constellation.local/etcd@", `"" is no SHA-256 digest`},
		{"a short digest", "constellation.local/etcd@sha256:" + hash[1:], "is no SHA-256 digest"},
		{"a long digest", "constellation.local/etcd@sha256:" + hash + "0", "is no SHA-256 digest"},
		{"capital letters", "constellation.local/etcd@sha256:" + strings.ToUpper(hash), "is no SHA-256 digest"},
		{"another algorithm", "constellation.local/etcd@sha512:" + hash, "is no SHA-256 digest"},
		{"a line behind it", "constellation.local/etcd@sha256:" + hash + "\n", "is not named by its digest"},
		{"a line inside", "constellation.local/etcd\nx@sha256:" + hash, "is not named by its digest"},
		{"a tag beside the digest", "constellation.local/etcd:1@sha256:" + hash, `"constellation.local/etcd:1" is no REGISTRY/NAME`},
		{"no registry", "etcd@sha256:" + hash, `"etcd" is no REGISTRY/NAME`},
		{"capital name", "constellation.local/Etcd@sha256:" + hash, "is no REGISTRY/NAME"},
		{"a second digest", "constellation.local/etcd@sha256:" + hash + "@sha256:" + hash, "is no REGISTRY/NAME"},
		{"a path that climbs", "constellation.local/../etcd@sha256:" + hash, "is no REGISTRY/NAME"},
		{"much", "constellation.local/" + strings.Repeat("a", 512) + "@sha256:" + hash, "an image's name of 604 bytes, at most 512 are possible"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := Pinned(test.image); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want %q", err, test.says)
			}
		})
	}
}
