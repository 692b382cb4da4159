# SPDX-License-Identifier: Apache-2.0
"""Fetches the source of separate Go modules, for go_module_binaries of defs.bzl.

A separate module has its own go.mod and go.sum in a folder of this repository. What the image takes from there is the
main packages of other projects, whose requirements must not mix with those of our own code. Each becomes a repository
with what a Go module proxy would serve for exactly the modules that its packages need: `proxy/**`.

Trust: go.sum names the hash of everything that is fetched; the proxy is whatever the machine's Go is set to use.
The machine's own module cache is asked first, which saves time but is trusted no more.
"""

_FETCHING = """
Fetching the Go modules of {go_mod} failed:
{what}
What was fetched is kept in Go's module cache where there is one. If go.mod or go.sum is out of date, run
"go mod tidy" beside it and commit both."""

_BUILD = """\
# Written by tools/gomodule/extension.bzl.
package(default_visibility = ["//visibility:public"])

filegroup(
    name = "proxy",
    srcs = glob(["proxy/**"]),
)
"""

def _go(ctx, args, **environment):
    env = {
        "CGO_ENABLED": "0",
        "GO111MODULE": "on",
        "GOENV": ctx.os.environ.get("GOENV", ""),
        "GOFLAGS": "-mod=readonly -modcacherw",
        "GOOS": ctx.attr.goos,
        "GOARCH": ctx.attr.goarch,
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }
    if not env["GOENV"]:
        env.pop("GOENV")
    env.update(environment)
    result = ctx.execute(
        [ctx.path(ctx.attr.go)] + args,
        environment = env,
        timeout = 3600,
        working_directory = "module",
    )
    if result.return_code != 0:
        fail(_FETCHING.format(go_mod = ctx.attr.go_mod, what = result.stdout + result.stderr))
    return result.stdout

def _go_module_sources_impl(ctx):
    ctx.symlink(ctx.attr.go_mod, "module/go.mod")
    ctx.symlink(ctx.attr.go_sum, "module/go.sum")

    ctx.report_progress("fetching modules")
    cache = ctx.path("cache")
    download = cache.get_child("cache").get_child("download")
    settings = json.decode(_go(ctx, ["env", "-json", "GOMODCACHE", "GOPROXY"]))
    own = "{}/cache/download".format(settings["GOMODCACHE"])
    proxy = settings["GOPROXY"] or "direct"
    if settings["GOMODCACHE"] and ctx.path(own).exists:
        proxy = "file://{},{}".format(own, proxy)

    # Listing the dependencies of the tools fetches the modules that contain them, and no others.
    _go(ctx, ["list", "-deps", "tool"], GOMODCACHE = str(cache), GOCACHE = str(ctx.path("gocache")), GOPROXY = proxy)

    # Kept is what does not depend on where and when it was fetched.
    result = ctx.execute(["/bin/sh", "-c", """
set -eu
cd "$1"
rm -rf sumdb
find . '(' -name '*.info' -o -name '*.lock' -o -name list -o -name '*.ziphash' -o -name '*.partial' ')' -type f -exec rm {} +
""", "sh", str(download)])
    if result.return_code != 0:
        fail("cleaning the module cache failed: " + result.stderr)
    ctx.execute(["mv", str(download), str(ctx.path("proxy"))])
    for scratch in ["cache", "gocache", "module"]:
        ctx.delete(scratch)
    ctx.file("BUILD.bazel", _BUILD, executable = False)

_go_module_sources = repository_rule(
    implementation = _go_module_sources_impl,
    attrs = {
        "go": attr.label(mandatory = True),
        "go_mod": attr.label(mandatory = True, allow_single_file = True),
        "go_sum": attr.label(mandatory = True, allow_single_file = True),
        "goarch": attr.string(mandatory = True),
        "goos": attr.string(mandatory = True),
    },
    doc = "The modules that the tools of a separate Go module need, as a module proxy would serve them.",
)

def _extension_impl(ctx):
    names = []
    for module in ctx.modules:
        for tag in module.tags.module:
            names.append(tag.name)
            _go_module_sources(
                name = tag.name,
                go = "@go_toolchain//:bin/go",
                go_mod = tag.go_mod,
                go_sum = tag.go_mod.relative(":go.sum"),
                goarch = "amd64",
                goos = "linux",
            )
    return ctx.extension_metadata(
        reproducible = True,
        root_module_direct_deps = names,
        root_module_direct_dev_deps = [],
    )

go_modules = module_extension(
    implementation = _extension_impl,
    tag_classes = {
        "module": tag_class(attrs = {
            "name": attr.string(mandatory = True, doc = "name of the repository"),
            "go_mod": attr.label(mandatory = True, doc = "go.mod of the module; go.sum is beside it; its tool lines name the main packages"),
        }),
    },
)
