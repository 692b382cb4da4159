# SPDX-License-Identifier: Apache-2.0
"""Fetches the source of separate Go modules, for go_module_binaries of defs.bzl.

A separate module has its own go.mod and go.sum in a folder of this repository. What the image takes from there is the
main packages of other projects, whose requirements must not mix with those of our own code. Each becomes a repository
with what a Go module proxy would serve for exactly the modules that its packages need: `proxy/**`.

Trust: go.sum names the hash of everything that is fetched; the proxy is whatever the machine's Go is set to use.
Modules are fetched into the machine's own module cache first, as any go command does, so that a fetch that broke off
continues and a later one needs no network. Neither cache nor proxy is trusted.
"""

_FETCHING = """
Fetching the Go modules of {go_mod} failed:
{what}
What was fetched is kept in Go's module cache, and will not be asked for again. If go.mod or go.sum is out of date, run
"go mod tidy" beside it and commit both."""

_BUILD = """\
# Written by tools/gomodule/extension.bzl.
package(default_visibility = ["//visibility:public"])

filegroup(
    name = "proxy",
    srcs = glob(["proxy/**"]),
)
"""

def _run_go(ctx, args, environment):
    env = {
        "CGO_ENABLED": "0",
        "GO111MODULE": "on",
        "GOFLAGS": "-mod=readonly -modcacherw",
        "GOOS": ctx.attr.goos,
        "GOARCH": ctx.attr.goarch,
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }
    env.update(environment)
    return ctx.execute(
        [ctx.path(ctx.attr.go)] + args,
        environment = env,
        timeout = 3600,
        working_directory = "module",
    )

def _go(ctx, args, environment = {}):
    result = _run_go(ctx, args, environment)
    if result.return_code != 0:
        fail(_FETCHING.format(go_mod = ctx.attr.go_mod, what = result.stdout + result.stderr))
    return result.stdout

def _go_module_sources_impl(ctx):
    ctx.symlink(ctx.attr.go_mod, "module/go.mod")
    ctx.symlink(ctx.attr.go_sum, "module/go.sum")
    for src in ctx.attr.srcs:
        if src.package != ctx.attr.go_mod.package:
            fail("{} is not in the package of {}".format(src, ctx.attr.go_mod))
        ctx.symlink(src, "module/" + src.name)

    # Listing the dependencies of the tools fetches the modules that contain them, and no others.
    list_tools = ["list", "-deps", "tool"]
    settings = json.decode(_go(ctx, ["env", "-json", "GOMODCACHE", "GOPROXY"]))
    shared = settings["GOMODCACHE"]
    proxy = settings["GOPROXY"] or "direct"
    scratch = {"GOCACHE": str(ctx.path("gocache"))}
    if shared:
        # Whether this succeeds does not matter: what is still missing is fetched below, or reported.
        ctx.report_progress("fetching modules")
        _run_go(ctx, list_tools, scratch | {"GOFLAGS": "-mod=readonly"})
        proxy = "file://{}/cache/download,{}".format(shared, proxy)
    ctx.report_progress("collecting modules")
    cache = ctx.path("cache")
    _go(ctx, list_tools, scratch | {"GOMODCACHE": str(cache), "GOPROXY": proxy})
    download = cache.get_child("cache").get_child("download")

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
        "srcs": attr.label_list(allow_files = True),
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
                srcs = tag.srcs,
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
            "srcs": attr.label_list(doc = "Go files of the module's own main packages, if it has any; they decide what is fetched"),
        }),
    },
)
