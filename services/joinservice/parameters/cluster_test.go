// SPDX-License-Identifier: Apache-2.0

package parameters

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func example() *Cluster {
	return &Cluster{
		Name: "example", Endpoint: "10.0.0.1:6443", APIServerNames: []string{"api.example.org", "192.0.2.1"},
		PodNetwork: "10.244.0.0/16", ServiceNetwork: "10.96.0.0/12",
		Salt: bytes.Repeat([]byte{7}, 32), Components: []byte(`{"components":[]}`), Sources: []string{"http://10.0.0.1:5000", "http://10.0.0.2:5000"},
	}
}

func TestDataIsRead(t *testing.T) {
	for name, c := range map[string]*Cluster{"full": example(), "without names": func() *Cluster {
		c := example()
		c.APIServerNames = []string{}
		return c
	}()} {
		got, err := Parse(c.Data())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestByHand: an administrator edits the object.
func TestByHand(t *testing.T) {
	data := example().Data()
	data[FieldSources] = "  http://10.0.0.3:5000\n\n http://10.0.0.4:5000 \n"
	c, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"http://10.0.0.3:5000", "http://10.0.0.4:5000"}, c.Sources); diff != "" {
		t.Error(diff)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		field, value, says string
	}{
		"no endpoint":           {FieldEndpoint, "", "HOST:PORT"},
		"no port":               {FieldEndpoint, "10.0.0.1", "HOST:PORT"},
		"no host":               {FieldEndpoint, ":6443", "neither an address nor a DNS name"},
		"another port":          {FieldEndpoint, "10.0.0.1:0", `"0" is no port`},
		"no network of pods":    {FieldPodNetwork, "", "network of pods"},
		"networks that overlap": {FieldServiceNetwork, "10.244.0.0/16", "overlap"},
		"no salt":               {FieldSalt, "", "salt is not 32 bytes"},
		"a short salt":          {FieldSalt, "abcd", "salt is not 32 bytes"},
		"no component set":      {FieldComponents, "", "no component set"},
		"half of one":           {FieldComponents, `{"components":`, "no component set"},
		"no sources":            {FieldSources, " \n", "no place"},
	} {
		data := example().Data()
		data[tc.field] = tc.value
		if c, err := Parse(data); err == nil || c != nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
