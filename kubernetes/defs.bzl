# SPDX-License-Identifier: Apache-2.0
"""All that a node needs to be part of a cluster, as one bundle."""

load("//kubernetes/bundle:defs.bzl", "component_bundle")

# The images that every cluster has.
IMAGES = ["//kubernetes/images:" + name for name in [
    "coredns",
    "etcd",
    "flannel",
    "joinservice",
    "keyservice",
    "kubernetes",
    "pause",
    "verificationservice",
]]

def kubernetes_bundle(name, images = [], **kwargs):
    """Makes the bundle of a cluster.

    Args:
      name: of the target.
      images: images besides those of every cluster.
      **kwargs: other attributes of component_bundle.
    """
    component_bundle(
        name = name,
        go_mods = [
            "//kubernetes/components:go.mod",
            "//kubernetes/components/coredns:go.mod",
            "//kubernetes/components/flannel:go.mod",
        ],
        images = IMAGES + images,
        kubernetes = "@k8s.io/kubernetes",
        programs = {
            name: ["kubernetes", "usr/bin/kubernetes", "bin/" + name]
            for name in ["kubeadm", "kubectl", "kubelet"]
        },
        **kwargs
    )
