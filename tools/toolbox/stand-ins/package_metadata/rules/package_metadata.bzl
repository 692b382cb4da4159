# SPDX-License-Identifier: Apache-2.0
"""Accepts what gazelle writes into the repositories that it generates. Records the package URL only."""

load("//providers:package_metadata_info.bzl", "PackageMetadataInfo")

def _impl(ctx):
    return [DefaultInfo(), PackageMetadataInfo(purl = ctx.attr.purl)]

_package_metadata = rule(
    implementation = _impl,
    attrs = {"purl": attr.string()},
)

def package_metadata(name, purl = None, visibility = None, **_kwargs):
    """Declares a package's URL.

    Args:
      name: name of the target.
      purl: package URL.
      visibility: as for any target.
      **_kwargs: what the real macro takes besides.
    """
    _package_metadata(
        name = name,
        purl = purl,
        # The repository's default would be this very target.
        applicable_licenses = [],
        visibility = visibility,
    )
