# SPDX-License-Identifier: Apache-2.0
"""What an image tells the rules that use it."""

ConstellationImageInfo = provider(
    doc = "The artifacts of an image.",
    fields = {
        "disk": "File: the bootable disk",
        "flavour": "string: the flavour, as on the kernel command line",
        "manifest": "File: what the image is, and the hashes of its artifacts",
        "measurements": "File: the predicted measurements",
        "root_files": "File: the description of each file of the root",
        "sbom": "File: what the image is made of, as SPDX",
        "uki": "File: the unified kernel image",
    },
)
