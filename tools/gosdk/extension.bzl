# SPDX-License-Identifier: Apache-2.0
"""Pins the Go toolchain that Bazel uses.

Go's toolchains are published as Go modules too, so the module proxy that the machine's Go is set to use has them.
The archive is checked against a SHA-256 and kept in Bazel's repository cache under it.
"""

_BUILD = """\
# The toolchain's files, for rules_go to wrap.
exports_files(["VERSION", "bin/go"])
"""

_NO_PROXY = """
No Go module proxy is known to fetch the Go toolchain {version} from. Set GOPROXY to the address of one, or put a "go"
command on PATH whose "go env GOPROXY" names one. The toolbox of tools/bazel has such a command."""

def _proxies(ctx):
    """The addresses of module proxies in the order that Go asks them in."""
    setting = ctx.os.environ.get("GOPROXY", "")
    go = ctx.which("go")
    if not setting and go:
        result = ctx.execute([go, "env", "GOPROXY"])
        setting = result.stdout.strip() if result.return_code == 0 else ""
    entries = [entry.strip().rstrip("/") for entry in setting.replace("|", ",").split(",")]
    return [entry for entry in entries if "://" in entry]

def _go_toolchain_impl(ctx):
    version = "v0.0.1-go{}.{}-{}".format(ctx.attr.version, ctx.attr.goos, ctx.attr.goarch)
    proxies = _proxies(ctx)
    if not proxies:
        fail(_NO_PROXY.format(version = ctx.attr.version))
    ctx.download_and_extract(
        url = ["{}/golang.org/toolchain/@v/{}.zip".format(proxy, version) for proxy in proxies],
        sha256 = ctx.attr.sha256,
        stripPrefix = "golang.org/toolchain@" + version,
    )

    # Archives of modules carry no execute bits. What only Go's own tests need is the larger part of the files.
    result = ctx.execute(["/bin/sh", "-c", """
set -eu
find bin pkg/tool -type f -exec chmod 0755 {} +
rm -rf test api misc doc
find . '(' -name BUILD -o -name BUILD.bazel ')' -type f -exec rm {} +
"""])
    if result.return_code != 0:
        fail("Unpacking the Go toolchain failed: " + result.stderr)
    ctx.file("BUILD.bazel", _BUILD, executable = False)

_go_toolchain = repository_rule(
    implementation = _go_toolchain_impl,
    attrs = {
        "goarch": attr.string(mandatory = True),
        "goos": attr.string(mandatory = True),
        "sha256": attr.string(mandatory = True),
        "version": attr.string(mandatory = True),
    },
    doc = "Go's published toolchain of one version, checked against its SHA-256.",
)

def _extension_impl(ctx):
    pins = [pin for module in ctx.modules for pin in module.tags.pin if module.is_root]
    if len(pins) != 1:
        fail("go_toolchain: exactly one pin is wanted")
    _go_toolchain(
        name = "go_toolchain",
        goarch = pins[0].goarch,
        goos = pins[0].goos,
        sha256 = pins[0].sha256,
        version = pins[0].version,
    )
    return ctx.extension_metadata(reproducible = True)

go_toolchain = module_extension(
    implementation = _extension_impl,
    tag_classes = {
        "pin": tag_class(
            attrs = {
                "goarch": attr.string(mandatory = True),
                "goos": attr.string(mandatory = True),
                "sha256": attr.string(mandatory = True, doc = "of the archive of the module golang.org/toolchain"),
                "version": attr.string(mandatory = True, doc = "Go's version without \"go\": 1.26.8"),
            },
        ),
    },
)
