// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/kubernetes/componentset"
	"github.com/constellation-os/constellation/kubernetes/network"
	"github.com/constellation-os/constellation/services/bootstrapper"
	"github.com/constellation-os/constellation/services/joinservice/parameters"
)

const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// set makes a component set of images and of programs below bin/.
func set(t *testing.T, version, without string) []byte {
	t.Helper()
	var all []componentset.Component
	for _, name := range []string{"coredns", "etcd", "flannel", "joinservice", "keyservice", "kubernetes", "pause", "verificationservice"} {
		all = append(all, componentset.Component{Name: name, Kind: componentset.KindImage, Version: "1", Digest: digest, Size: 1})
	}
	for _, name := range []string{"kubeadm", "kubelet"} {
		all = append(all, componentset.Component{Name: name, Kind: componentset.KindProgram, Version: "1", Digest: digest, Size: 1,
			Image: "kubernetes", Path: "usr/bin/kubernetes", InstallPath: "bin/" + name})
	}
	s, err := componentset.New(version, slices.DeleteFunc(all, func(c componentset.Component) bool { return c.Name == without }))
	if err != nil {
		t.Fatal(err)
	}
	return s.Encode()
}

// other makes a set with another image of a service.
func other(t *testing.T, name string) []byte {
	t.Helper()
	s, err := componentset.Parse(set(t, "v1.37.2", ""))
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range s.Components {
		if c.Name == name {
			s.Components[i].Digest = "sha256:" + strings.Repeat("f", 64)
		}
	}
	return s.Encode()
}

func TestCheck(t *testing.T) {
	n, err := network.Parse("10.244.0.0/16", "10.96.0.0/12")
	if err != nil {
		t.Fatal(err)
	}
	at := func(address string) func() (netip.Addr, error) {
		return func() (netip.Addr, error) { return netip.ParseAddr(address) }
	}
	for _, tc := range []struct {
		name    string
		set     []byte
		address func() (netip.Addr, error)
		says    string
	}{
		{"complete", set(t, "v1.37.2", ""), at("10.77.0.10"), ""},
		{"not a set", []byte("{}"), at("10.77.0.10"), "component_set: component set: the format is not"},
		{"no name server", set(t, "v1.37.2", "coredns"), at("10.77.0.10"), "component_set: it has no image coredns"},
		{"another JoinService", other(t, "joinservice"), at("10.77.0.10"),
			"component_set: image joinservice is sha256:" + strings.Repeat("f", 64) + ", and not the image that this node's own image was built with: that is " + digest},
		{"no VerificationService", set(t, "v1.37.2", "verificationservice"), at("10.77.0.10"), "component_set: it has no image verificationservice"},
		{"no pause", set(t, "v1.37.2", "pause"), at("10.77.0.10"), "component_set: it has no image pause"},
		{"no kubeadm", set(t, "v1.37.2", "kubeadm"), at("10.77.0.10"), "component_set: it has no program kubeadm to be installed as bin/kubeadm"},
		{"kubelet elsewhere", []byte(strings.Replace(string(set(t, "v1.37.2", "")), "bin/kubelet", "sbin/kubelet", 1)), at("10.77.0.10"),
			"it has no program kubelet to be installed as bin/kubelet"},
		{"another Kubernetes", set(t, "v1.36.4", ""), at("10.77.0.10"), "version of Kubernetes v1.36.4 is unknown: this node can set up 1.37"},
		{"the node among pods", set(t, "v1.37.2", ""), at("10.244.1.1"), "node's address 10.244.1.1 is in the network of pods 10.244.0.0/16"},
		{"no address", set(t, "v1.37.2", ""), func() (netip.Addr, error) { return netip.Addr{}, errors.New("no address") }, "no address"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pins := componentset.Pins{"joinservice": digest, "keyservice": digest, "verificationservice": digest}
			err := check(&bootstrapper.Request{NodeName: "node", ClusterName: "cluster", ComponentSet: tc.set, Endpoint: "10.77.0.10:6443", Network: n}, pins, tc.address)
			if tc.says == "" && err != nil || tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("got %v, want %q", err, tc.says)
			}
		})
	}
}

func TestNewUUID(t *testing.T) {
	pattern := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	one, err := newUUID()
	two, err2 := newUUID()
	if err != nil || err2 != nil || one == two || !pattern.MatchString(one) || !pattern.MatchString(two) {
		t.Errorf("%q, %v, %q, %v", one, err, two, err2)
	}
}

// TestSettings: JoinService reads what the first node gives the cluster.
func TestSettings(t *testing.T) {
	n, err := network.Parse("10.244.0.0/16", "10.96.0.0/12")
	if err != nil {
		t.Fatal(err)
	}
	ring := keys.Generate()
	objects := settings(&bootstrapper.Request{
		Keyring: ring, NodeName: "node", ClusterName: "cluster", ComponentSet: set(t, "v1.37.2", ""), Sources: []string{"http://10.77.0.1:5000"},
		Endpoint: "10.77.0.10:6443", APIServerNames: []string{"api.example.org"}, Network: n, Policy: []byte("the policy"),
	})
	data := map[string]map[string]string{}
	for _, o := range objects {
		if data[o.GetName()], _, err = unstructured.NestedStringMap(o.Object, "data"); err != nil || o.GetNamespace() != "kube-system" {
			t.Fatalf("%s/%s: %v", o.GetNamespace(), o.GetName(), err)
		}
	}
	if got := data["constellation-policy"]["policy.json"]; len(data) != 2 || got != "the policy" {
		t.Errorf("%d objects, and the policy is %q", len(data), got)
	}
	c, err := parameters.Parse(data["constellation-cluster"])
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "cluster" || c.Endpoint != "10.77.0.10:6443" || c.PodNetwork != "10.244.0.0/16" || c.ServiceNetwork != "10.96.0.0/12" ||
		!bytes.Equal(c.Salt, ring.Salt()) || !bytes.Equal(c.Components, set(t, "v1.37.2", "")) || !slices.Equal(c.Sources, []string{"http://10.77.0.1:5000"}) {
		t.Errorf("the cluster's parameters are %+v", c)
	}
}
