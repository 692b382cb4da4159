# SPDX-License-Identifier: Apache-2.0
"""What is in every flavour of the image besides Debian's files and rootfs/tree."""

VERSION = "0.1.0"

# The programs of every flavour that are ours or built by us, each with its place in the root.
BINARIES = {
    "//image/cni:bridge": "usr/libexec/cni/bridge",
    "//image/cni:host-local": "usr/libexec/cni/host-local",
    "//image/cni:portmap": "usr/libexec/cni/portmap",
    "//image/containerd:containerd": "usr/bin/containerd",
    "//image/containerd:containerd-shim-runc-v2": "usr/bin/containerd-shim-runc-v2",
    "//services/bootstrapper/cmd/bootstrapper": "usr/bin/bootstrapper",
    "//services/diskmapper/cmd/diskmapper": "usr/bin/diskmapper",
    "//services/keyservice/cmd/secretsprovider": "usr/bin/secretsprovider",
    "//services/measurementreader/cmd/measurementreader": "usr/bin/measurementreader",
}

FILES = {
    "//kubernetes/images:services": "usr/lib/constellation/services.txt",
    "//services/bootstrapper:bootstrapper.service": "usr/lib/systemd/system/bootstrapper.service",
    "//services/bootstrapper/units:kubeadm-files.service": "usr/lib/systemd/system/kubeadm-files.service",
    "//services/bootstrapper/units:kubeadm-finish.service": "usr/lib/systemd/system/kubeadm-finish.service",
    "//services/bootstrapper/units:kubelet.service": "usr/lib/systemd/system/kubelet.service",
    "//services/diskmapper:diskmapper.service": "usr/lib/systemd/system/diskmapper.service",
    "//services/keyservice/secretsprovider:secretsprovider.service": "usr/lib/systemd/system/secretsprovider.service",
    "//services/measurementreader:measurementreader.service": "usr/lib/systemd/system/measurementreader.service",
}

LINKS = {
    "usr/lib/systemd/system/multi-user.target.wants/bootstrapper.service": "../bootstrapper.service",
    "usr/lib/systemd/system/multi-user.target.wants/diskmapper.service": "../diskmapper.service",
    "usr/lib/systemd/system/multi-user.target.wants/measurementreader.service": "../measurementreader.service",
}
