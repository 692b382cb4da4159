// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"net/netip"
	"strings"
	"testing"
)

func TestRefusals(t *testing.T) {
	pods, services := netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("10.96.0.0/12")
	for _, test := range []struct {
		name           string
		pods, services netip.Prefix
		inside         []string
		want           string
	}{
		{"no network", netip.Prefix{}, services, []string{"cni0"}, "invalid Prefix is no network of pods or services"},
		{"no services", pods, netip.Prefix{}, []string{"cni0"}, "invalid Prefix is no network of pods or services"},
		{"everybody", netip.MustParsePrefix("0.0.0.0/0"), services, []string{"cni0"}, "0.0.0.0/0 is no network of pods or services"},
		{"IPv6", netip.MustParsePrefix("fd00::/64"), services, []string{"cni0"}, "fd00::/64 is no network of pods or services"},
		{"no interface", pods, services, nil, "no interface is named"},
		{"no name", pods, services, []string{""}, `"" is no interface's name`},
		{"any interface", pods, services, []string{"*"}, `"*" is no interface's name`},
		{"more than a name", pods, services, []string{`cni0", "eth0`}, `"cni0\", \"eth0" is no interface's name`},
	} {
		if text, err := script(test.pods, test.services, test.inside); err == nil || err.Error() != test.want || text != "" {
			t.Errorf("%s: %v, want %s", test.name, err, test.want)
		}
	}
	if text, err := script(pods, services, []string{"cni0"}); err != nil || strings.Contains(text, "{{") {
		t.Errorf("%v: %s", err, text)
	}
}
