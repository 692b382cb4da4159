# SPDX-License-Identifier: Apache-2.0
"""Pins the Go toolchain that Bazel uses.

Go's toolchains are published as Go modules too, so any `go` command can fetch one from the machine's module
proxy. That `go` only downloads: nothing is built with it. The checksum is the one that go.sum would hold.
"""

_BUILD = """\
# The toolchain's files, for rules_go to wrap.
exports_files(["VERSION"])
"""

_FETCHING = """
Fetching the Go toolchain failed: {what}.
Any Go from 1.21 on can fetch it: it must be on PATH and reach a module proxy (GOPROXY). The wrapper
tools/bazel brings one."""

def _go_toolchain_impl(ctx):
    module = "golang.org/toolchain@v0.0.1-go{}.{}-{}".format(ctx.attr.version, ctx.attr.goos, ctx.attr.goarch)
    go = ctx.which("go")
    if not go:
        fail(_FETCHING.format(what = "there is no go command on PATH"))

    ctx.report_progress("Fetching " + module)
    cache = str(ctx.path("modules"))
    result = ctx.execute([go, "mod", "download", "-json", module], environment = {
        "GO111MODULE": "on",
        "GOFLAGS": "-modcacherw",
        "GOMODCACHE": cache,
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }, timeout = 1800)
    if result.return_code != 0:
        fail(_FETCHING.format(what = result.stdout + result.stderr))
    answer = json.decode(result.stdout)
    if answer["Sum"] != ctx.attr.checksum:
        fail(_FETCHING.format(what = "{} has checksum {} instead of {}".format(module, answer["Sum"], ctx.attr.checksum)))

    # Module archives carry no execute bits.
    script = """
set -eu
mv "$1"/* .
rm -rf modules
find bin pkg/tool -type f -exec chmod 0755 {} +
# Neither used nor wanted as Bazel packages; test data is the larger part of a toolchain's size.
rm -rf test api misc doc
find . '(' -name BUILD -o -name BUILD.bazel ')' -type f -exec rm {} +
"""
    result = ctx.execute(["/bin/sh", "-c", script, "sh", answer["Dir"]])
    if result.return_code != 0:
        fail("Unpacking the Go toolchain failed: " + result.stderr)
    ctx.file("BUILD.bazel", _BUILD, executable = False)

_go_toolchain = repository_rule(
    implementation = _go_toolchain_impl,
    attrs = {
        "checksum": attr.string(mandatory = True),
        "goarch": attr.string(mandatory = True),
        "goos": attr.string(mandatory = True),
        "version": attr.string(mandatory = True),
    },
    doc = "Go's published toolchain of one version, checked against its module checksum.",
)

def _extension_impl(ctx):
    pins = [pin for module in ctx.modules for pin in module.tags.pin if module.is_root]
    if len(pins) != 1:
        fail("go_toolchain: exactly one pin is wanted")
    _go_toolchain(
        name = "go_toolchain",
        checksum = pins[0].checksum,
        goarch = pins[0].goarch,
        goos = pins[0].goos,
        version = pins[0].version,
    )
    return ctx.extension_metadata(reproducible = True)

go_toolchain = module_extension(
    implementation = _extension_impl,
    tag_classes = {
        "pin": tag_class(
            attrs = {
                "checksum": attr.string(mandatory = True, doc = "h1: checksum of the module golang.org/toolchain, as in go.sum"),
                "goarch": attr.string(mandatory = True),
                "goos": attr.string(mandatory = True),
                "version": attr.string(mandatory = True, doc = "Go's version without \"go\": 1.26.8"),
            },
        ),
    },
)
