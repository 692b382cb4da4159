# SPDX-License-Identifier: Apache-2.0
"""The provider of package_metadata."""

PackageMetadataInfo = provider(
    doc = "What is known of a package.",
    fields = {"purl": "package URL"},
)
