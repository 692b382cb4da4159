// SPDX-License-Identifier: Apache-2.0

package manifests

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/constellation-os/constellation/kubernetes/network"
)

// nameServers is how many there are where they can be on different nodes.
const nameServers = 2

// configAnnotation makes a workload start anew when a config map that it mounts
// changes.
const configAnnotation = "constellation/configuration"

// set sets what differs between clusters in one object.
func (p *Parameters) set(o *unstructured.Unstructured, n network.Network) error {
	switch name(o) {
	case "ConfigMap kube-system/flannel":
		return edit(o, "net-conf.json", json.Marshal, func(content map[string]any) error {
			content["Network"] = n.Pods.String()
			return nil
		})
	case "ConfigMap kube-system/kube-proxy":
		if err := edit(o, "config.yaml", yaml.Marshal, func(content map[string]any) error {
			content["clusterCIDR"] = n.Pods.String()
			return nil
		}); err != nil {
			return err
		}
		return edit(o, "kubeconfig.yaml", yaml.Marshal, func(content map[string]any) error {
			clusters, _, err := unstructured.NestedSlice(content, "clusters")
			if err != nil || len(clusters) != 1 {
				return fmt.Errorf("%d clusters, %v", len(clusters), err)
			}
			if err := unstructured.SetNestedField(clusters[0].(map[string]any), "https://"+p.Endpoint, "cluster", "server"); err != nil {
				return err
			}
			return unstructured.SetNestedSlice(content, clusters, "clusters")
		})
	case "Service kube-system/kube-dns":
		return unstructured.SetNestedField(o.Object, n.DNS().String(), "spec", "clusterIP")
	case "DaemonSet kube-system/flannel":
		if err := change(o, func(flannel map[string]any) { flannel["args"] = []any{"-services=" + n.Services.String()} }); err != nil {
			return err
		}
	case "Deployment kube-system/coredns":
		replicas := int64(nameServers)
		if p.SingleNode {
			replicas = 1
		}
		if err := unstructured.SetNestedField(o.Object, replicas, "spec", "replicas"); err != nil {
			return err
		}
	}
	return p.setImages(o)
}

// edit changes a file in a config map.
func edit(o *unstructured.Unstructured, file string, marshal func(any) ([]byte, error), change func(map[string]any) error) error {
	text, found, err := unstructured.NestedString(o.Object, "data", file)
	if err != nil || !found {
		return fmt.Errorf("no %s: %v", file, err)
	}
	var content map[string]any
	if err := yaml.UnmarshalStrict([]byte(text), &content); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := change(content); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	data, err := marshal(content)
	if err != nil {
		return err
	}
	return unstructured.SetNestedField(o.Object, string(data), "data", file)
}

var (
	template   = []string{"spec", "template"}
	containers = []string{"spec", "template", "spec", "containers"}
	volumes    = []string{"spec", "template", "spec", "volumes"}
)

// change changes the one container of a workload's pods.
func change(o *unstructured.Unstructured, how func(container map[string]any)) error {
	all, _, err := unstructured.NestedSlice(o.Object, containers...)
	if err != nil || len(all) != 1 {
		return fmt.Errorf("%d containers, %v", len(all), err)
	}
	how(all[0].(map[string]any))
	return unstructured.SetNestedSlice(o.Object, all, containers...)
}

// setImages puts the digests where the files have names of the component set.
func (p *Parameters) setImages(o *unstructured.Unstructured) error {
	all, found, err := unstructured.NestedSlice(o.Object, containers...)
	if err != nil || !found {
		return err
	}
	for _, c := range all {
		container := c.(map[string]any)
		image, ok := p.Images[container["image"].(string)]
		if !ok {
			return fmt.Errorf("the component set has no image %q", container["image"])
		}
		container["image"] = image
	}
	return unstructured.SetNestedSlice(o.Object, all, containers...)
}

// noteConfiguration annotates each workload's pods with the digest of the config
// maps that they mount.
func noteConfiguration(objects []*unstructured.Unstructured) error {
	maps := map[string]any{}
	for _, o := range objects {
		if o.GetKind() == "ConfigMap" {
			maps[o.GetNamespace()+"/"+o.GetName()] = o.Object["data"]
		}
	}
	for _, o := range objects {
		mounted, _, err := unstructured.NestedSlice(o.Object, volumes...)
		if err != nil {
			return err
		}
		digest := sha256.New()
		for _, v := range mounted {
			configMap, found, err := unstructured.NestedString(v.(map[string]any), "configMap", "name")
			if err != nil {
				return err
			}
			if !found {
				continue
			}
			data, ok := maps[o.GetNamespace()+"/"+configMap]
			if !ok {
				return fmt.Errorf("%s mounts config map %s, which is not there", name(o), configMap)
			}
			if err := json.NewEncoder(digest).Encode(data); err != nil {
				return err
			}
			path := append(append([]string{}, template...), "metadata", "annotations", configAnnotation)
			if err := unstructured.SetNestedField(o.Object, hex.EncodeToString(digest.Sum(nil)), path...); err != nil {
				return err
			}
		}
	}
	return nil
}
