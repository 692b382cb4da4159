// SPDX-License-Identifier: Apache-2.0

package network

import "testing"

func parse(t *testing.T, pods, services string) Network {
	t.Helper()
	n, err := Parse(pods, services)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDNS(t *testing.T) {
	for services, want := range map[string]string{
		"10.96.0.0/12": "10.96.0.10", "172.16.0.224/27": "172.16.0.234", "192.168.255.0/24": "192.168.255.10",
	} {
		if got := parse(t, "10.244.0.0/16", services).DNS().String(); got != want {
			t.Errorf("in %s: got %s, want %s", services, got, want)
		}
	}
}

func TestParseRefusals(t *testing.T) {
	for _, test := range []struct{ name, pods, services, want string }{
		{"nothing", "", "10.96.0.0/12", `network of pods "" is not in CIDR notation, such as 10.1.0.0/16`},
		{"an address", "10.244.0.0/16", "10.96.0.1", `network of services "10.96.0.1" is not in CIDR notation, such as 10.1.0.0/16`},
		{"two", "10.244.0.0/16,10.245.0.0/16", "10.96.0.0/12", `network of pods "10.244.0.0/16,10.245.0.0/16" is not in CIDR notation, such as 10.1.0.0/16`},
		{"YAML", "10.244.0.0/16\nx: y", "10.96.0.0/12", `network of pods "10.244.0.0/16\nx: y" is not in CIDR notation, such as 10.1.0.0/16`},
		{"IPv6", "fd00::/48", "10.96.0.0/12", "network of pods fd00::/48 is not IPv4"},
		{"IPv4 in IPv6", "::ffff:10.0.0.0/108", "10.96.0.0/12", "network of pods ::ffff:10.0.0.0/108 is not IPv4"},
		{"host bits", "10.244.0.1/16", "10.96.0.0/12", "network of pods 10.244.0.1/16 has bits set behind its prefix: 10.244.0.0/16 is meant"},
		{"room for one node", "10.244.0.0/24", "10.96.0.0/12", "network of pods 10.244.0.0/24 has a prefix of 24 bits, from 8 to 23 are possible"},
		{"half the Internet", "64.0.0.0/2", "10.96.0.0/12", "network of pods 64.0.0.0/2 has a prefix of 2 bits, from 8 to 23 are possible"},
		{"too many services", "10.244.0.0/16", "10.0.0.0/11", "network of services 10.0.0.0/11 has a prefix of 11 bits, from 12 to 27 are possible"},
		{"too few services", "10.244.0.0/16", "10.96.0.0/28", "network of services 10.96.0.0/28 has a prefix of 28 bits, from 12 to 27 are possible"},
		{"loopback", "127.0.0.0/16", "10.96.0.0/12", "network of pods 127.0.0.0/16 is in 127.0.0.0/8, which no network can use"},
		{"multicast", "10.244.0.0/16", "224.0.0.0/16", "network of services 224.0.0.0/16 is in 224.0.0.0/3, which no network can use"},
		{"overlap", "10.96.0.0/16", "10.96.0.0/12", "network of pods 10.96.0.0/16 and network of services 10.96.0.0/12 overlap"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := Parse(test.pods, test.services); err == nil || err.Error() != test.want {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
		})
	}
}

func TestCheckNode(t *testing.T) {
	n := parse(t, "10.244.0.0/16", "10.96.0.0/12")
	for address, want := range map[string]string{
		"10.77.0.2":      "",
		"node-1":         `node's address "node-1" is not an IP address`,
		"10.77.0.2:6443": `node's address "10.77.0.2:6443" is not an IP address`,
		"fd00::1":        "node's address fd00::1 is not IPv4",
		"127.0.0.1":      "node's address 127.0.0.1 cannot be reached by others",
		"0.0.0.0":        "node's address 0.0.0.0 cannot be reached by others",
		"169.254.1.1":    "node's address 169.254.1.1 cannot be reached by others",
		"10.244.3.4":     "node's address 10.244.3.4 is in the network of pods 10.244.0.0/16",
		"10.96.0.1":      "node's address 10.96.0.1 is in the network of services 10.96.0.0/12",
	} {
		got := ""
		if err := n.CheckNode(address); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestCheckEndpoint(t *testing.T) {
	for endpoint, want := range map[string]string{
		"10.77.0.2:6443":      "",
		"api.example.org:443": "",
		"[fd00::1]:6443":      "",
		"":                    `endpoint "" is not HOST:PORT`,
		"10.77.0.2":           `endpoint "10.77.0.2" is not HOST:PORT`,
		"fd00::1:6443":        `endpoint "fd00::1:6443" is not HOST:PORT`,
		"10.77.0.2:":          `endpoint "10.77.0.2:": "" is no port`,
		"10.77.0.2:0":         `endpoint "10.77.0.2:0": "0" is no port`,
		"10.77.0.2:65536":     `endpoint "10.77.0.2:65536": "65536" is no port`,
		"10.77.0.2:https":     `endpoint "10.77.0.2:https": "https" is no port`,
		"10.77.0.2:06443":     `endpoint "10.77.0.2:06443": "06443" is no port`,
		":6443":               `endpoint ":6443": "" is neither an address nor a DNS name`,
		"a/b:6443":            `endpoint "a/b:6443": "a/b" is neither an address nor a DNS name`,
		"a b:6443":            `endpoint "a b:6443": "a b" is neither an address nor a DNS name`,
		"API:6443":            `endpoint "API:6443": "API" is neither an address nor a DNS name`,
		"0.0.0.0:6443":        `endpoint "0.0.0.0:6443": address 0.0.0.0 is nobody's`,
		"[fe80::1%eth0]:6443": `endpoint "[fe80::1%eth0]:6443": address fe80::1%eth0 has a zone, which means something on one machine only`,
	} {
		got := ""
		if err := CheckEndpoint(endpoint); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
