// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/constellation-os/constellation/attestation/policy"
	"github.com/constellation-os/constellation/disk"
	"github.com/constellation-os/constellation/kubernetes/componentset"
	"github.com/constellation-os/constellation/kubernetes/kubeadm"
	"github.com/constellation-os/constellation/kubernetes/manifests"
	"github.com/constellation-os/constellation/services/bootstrapper"
	"github.com/constellation-os/constellation/services/bootstrapper/node"
	"github.com/constellation-os/constellation/services/bootstrapper/steps"
	"github.com/constellation-os/constellation/services/joinservice/parameters"
)

// What a node needs of a component set, beyond the images of its manifests.
var (
	neededImages   = []string{"kubernetes", "etcd", "pause"}
	neededPrograms = []string{"kubelet", "kubeadm"}
)

// check refuses what the steps would fail with, before anything has happened, on a node
// with that address, and a set with other services of ours than the image was built with.
func check(r *bootstrapper.Request, pins componentset.Pins, address func() (netip.Addr, error)) error {
	set, err := componentset.Parse(r.ComponentSet)
	if err != nil {
		return fmt.Errorf("component_set: %w", err)
	}
	if err := pins.Check(set); err != nil {
		return fmt.Errorf("component_set: %w", err)
	}
	for _, name := range append(manifests.Images(), neededImages...) {
		if _, ok := set.Image(name); !ok {
			return fmt.Errorf("component_set: it has no image %s", name)
		}
	}
	for _, name := range neededPrograms {
		program, ok := set.Program(name)
		if want := "bin/" + name; !ok || program.InstallPath != want {
			return fmt.Errorf("component_set: it has no program %s to be installed as %s", name, want)
		}
	}
	if _, err := configuration(r, set, address, ""); err != nil {
		return err
	}
	_, err = services(r, set)
	return err
}

// configuration is kubeadm's. members are etcd's when this node becomes one more of them.
func configuration(r *bootstrapper.Request, set *componentset.Set, address func() (netip.Addr, error), members string) (map[string][]byte, error) {
	a, err := address()
	if err != nil {
		return nil, err
	}
	return kubeadm.Render(kubeadm.Parameters{
		NodeName: r.NodeName, NodeAddress: a.String(), Endpoint: r.Endpoint, APIServerNames: r.APIServerNames, ClusterName: r.ClusterName,
		PodNetwork: r.Network.Pods.String(), ServiceNetwork: r.Network.Services.String(),
		KubernetesVersion: set.Kubernetes, Images: set.References(), SingleNode: r.Schedulable,
		EtcdMembers: members,
	})
}

// services are the cluster's own.
func services(r *bootstrapper.Request, set *componentset.Set) ([]*unstructured.Unstructured, error) {
	return manifests.Render(manifests.Parameters{
		Images: set.References(), Endpoint: r.Endpoint, SingleNode: r.Schedulable,
		PodNetwork: r.Network.Pods.String(), ServiceNetwork: r.Network.Services.String(),
	})
}

// settings are what JoinService reads: the policy, and what it tells machines.
func settings(r *bootstrapper.Request) []*unstructured.Unstructured {
	cluster := &parameters.Cluster{
		Name: r.ClusterName, Endpoint: r.Endpoint, APIServerNames: r.APIServerNames,
		PodNetwork: r.Network.Pods.String(), ServiceNetwork: r.Network.Services.String(),
		Salt: r.Keyring.Salt(), Components: r.ComponentSet, Sources: r.Sources,
	}
	return []*unstructured.Unstructured{parameters.PolicyConfigMap(r.Policy), cluster.ConfigMap()}
}

// founding makes the steps of a cluster's first node. Nobody remembers the generation of
// its disk yet.
func (m *machine) founding(r *bootstrapper.Request) ([]steps.Step, error) {
	rest, err := m.controlPlane(r, true, nil)
	if err != nil {
		return nil, err
	}
	d := m.stateDisk(steps.MasterKeys{Keyring: r.Keyring}, disk.Unwitnessed())
	d.NewUUID = newUUID
	d.Settle = func() error {
		if err := m.journal.Settle(); err != nil {
			return err
		}
		return nodeRecord.Save(r.Record())
	}
	return append([]steps.Step{&steps.Lock{Register: register, Cluster: r.Cluster}, d}, rest...), nil
}

// controlPlane makes the steps of a node of the control plane once its disk is open.
// Those that were done before do nothing but start what does not run. first says that it
// founded the cluster; further is there for one that did not and has a ticket.
func (m *machine) controlPlane(r *bootstrapper.Request, first bool, further *steps.Further) ([]steps.Step, error) {
	set, err := m.set(string(r.ComponentSet))
	if err != nil {
		return nil, err
	}
	delivery := &node.Delivery{Set: set, Sources: r.Sources}
	files := node.Files(root)
	cluster := &node.Cluster{Config: node.LocalConfig, Node: r.NodeName, Booted: node.Booted, Objects: func() ([]*unstructured.Unstructured, error) {
		objects, err := services(r, set)
		return append(objects, settings(r)...), err
	}}
	members := &node.Membership{
		Objects: node.LocalObjects, Device: m.device, Name: r.NodeName, Role: policy.ControlPlane,
		Address: node.Address, Opened: m.journal.Opened,
	}
	apiServer := &steps.APIServer{Cluster: cluster, Units: m.units}
	if further != nil {
		apiServer.Etcd = further.Etcd
	}
	return []steps.Step{
		&steps.Components{Delivery: delivery},
		&steps.Runtime{Units: m.units, Delivery: delivery},
		&steps.Secrets{Files: files, Units: m.units, Keyring: r.Keyring},
		&steps.ControlPlane{Units: m.units, Files: files, Kubernetes: kubernetes, Marks: m.journal, Further: further, Render: func(members string) (map[string][]byte, error) {
			return configuration(r, set, node.Address, members)
		}},
		apiServer,
		&steps.Services{Cluster: cluster, Units: m.units, Marks: m.journal, Members: members, Further: !first},
		&steps.Node{Cluster: cluster},
	}, nil
}

// register is PCR 15.
var register = &node.Register{Open: openTPM}

func openTPM() (transport.TPMCloser, error) { return linuxtpm.Open(tpmDevice) }

// newUUID makes a random UUID (RFC 9562, section 5.4).
func newUUID() (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

// logs returns the end of the node's journal, of the units that have a part in this.
func logs(units *node.Systemd) func(context.Context) []byte {
	return func(ctx context.Context) []byte {
		ctx, cancel := context.WithTimeout(ctx, logsTime)
		defer cancel()
		text, err := units.Logs(ctx, maxLogs-maxPodLogs, "bootstrapper.service", "diskmapper.service", "state*", "dev-mapper-state*", "var.mount", "opt.mount", "etc-*",
			steps.ContainerdService, steps.SecretsProviderService, "kubeadm-*", steps.KubeletService)
		if err != nil {
			text = []byte(err.Error() + "\n")
		}
		return append(text, node.PodLogs(root, maxPodLogs)...)
	}
}
