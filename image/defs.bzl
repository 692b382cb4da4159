# SPDX-License-Identifier: Apache-2.0
"""constellation_image: a bootable, measured disk image.

    constellation_image(
        name = "qemu",
        flavour = "qemu",
        binaries = {"//services/example/cmd/example": "usr/bin/example"},
        files = {"//services/example:example.service": "usr/lib/systemd/system/example.service"},
        links = {"usr/lib/systemd/system/multi-user.target.wants/example.service": "../example.service"},
    )

writes, into a folder of the target's name:

* `disk.raw`, the bootable disk, and `image.efi`, the unified kernel image on it;
* `measurements.json`, what a TPM must report when exactly this disk has booted;
* `manifest.json`, what it is and the hashes of all artifacts, and `sbom.spdx.json`, what it is made of;
* `executables.txt` and `root.files.json`, every program and every file of the root.

What every image has in common is in rootfs/, initrd/ and cmdline.conf.
"""

load("//image/private:image.bzl", _constellation_image = "constellation_image")
load("//image/private:info.bzl", _ConstellationImageInfo = "ConstellationImageInfo")

constellation_image = _constellation_image
ConstellationImageInfo = _ConstellationImageInfo
