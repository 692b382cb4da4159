# SPDX-License-Identifier: Apache-2.0
"""go_module_binaries: static programs built from the main packages of a separate, pinned Go module.

    go_module_binaries(
        name = "binaries",
        go_mod = "go.mod",
        modules = "@containerd_modules//:proxy",
        binaries = {
            "containerd": "github.com/containerd/containerd/v2/cmd/containerd",
        },
    )

makes the label ":containerd". Main packages may also be the separate module's own: `srcs` are its files, here and for
the extension. Bazel's other Go rules leave these files alone, and `# gazelle:ignore` beside them tells Gazelle to.

All binaries of one call are built by one `go build`, so that they share compiled
packages; Bazel keeps the result until the module, the flags or the Go toolchain changes. The action has no network, no
cache of its own and no cgo, and its output does not depend on where or when it runs. Building takes all cores that the
machine has, and is scheduled as such.

rules_go is not used for these modules: it would compile them package by package, which takes longer to set up than to
build, and it would need a BUILD file for each of thousands of packages.
"""

_GO = "@rules_go//go:toolchain"

def _uses_all_cores(_os, _inputs):
    return {"cpu": 2, "memory": 2048}

def _go_module_binaries_impl(ctx):
    sdk = ctx.toolchains[_GO].sdk
    arguments = ctx.actions.args()
    arguments.add("-go", sdk.go)
    arguments.add("-gomod", ctx.file.go_mod)
    arguments.add("-gosum", ctx.file.go_sum)
    arguments.add("-proxy", _proxy_folder(ctx.files.modules))
    arguments.add_joined("-tags", ctx.attr.gotags, join_with = ",")
    folder = ctx.file.go_mod.dirname
    for source in ctx.files.srcs:
        arguments.add("-src", source, format = source.path.removeprefix(folder + "/") + "=%s")
    for variable, value in ctx.attr.x_defs.items():
        arguments.add("-x", "{}={}".format(variable, value))
    for output, package in zip(ctx.outputs.outs, ctx.attr.packages):
        arguments.add_all([package, output.path])
    ctx.actions.run(
        executable = ctx.executable._build,
        arguments = [arguments],
        inputs = depset(
            [ctx.file.go_mod, ctx.file.go_sum, sdk.go] + ctx.files.srcs + ctx.files.modules,
            transitive = [sdk.srcs, sdk.headers, sdk.tools],
        ),
        outputs = ctx.outputs.outs,
        mnemonic = "GoModuleBuild",
        progress_message = "Building {} from Go modules".format(", ".join([out.basename for out in ctx.outputs.outs])),
        resource_set = _uses_all_cores,
    )
    return [DefaultInfo(files = depset(ctx.outputs.outs))]

def _proxy_folder(files):
    """Finds the folder that holds all of the fetched modules."""
    for file in files:
        before, found, _ = file.path.partition("/proxy/")
        if found:
            return before + "/proxy"
    fail("modules holds no folder named proxy")

_go_module_binaries = rule(
    implementation = _go_module_binaries_impl,
    attrs = {
        "go_mod": attr.label(mandatory = True, allow_single_file = True),
        "go_sum": attr.label(mandatory = True, allow_single_file = True),
        "gotags": attr.string_list(),
        "modules": attr.label(mandatory = True),
        "outs": attr.output_list(mandatory = True),
        "packages": attr.string_list(mandatory = True),
        "srcs": attr.label_list(allow_files = [".go"]),
        "x_defs": attr.string_dict(),
        "_build": attr.label(
            default = "//tools/gomodule/build",
            executable = True,
            cfg = "exec",
        ),
    },
    toolchains = [_GO],
)

def go_module_binaries(name, go_mod, modules, binaries, go_sum = "go.sum", gotags = [], srcs = [], x_defs = {}, **kwargs):
    """Builds main packages of a separate Go module.

    Args:
      name: the target with all binaries.
      go_mod: the module's go.mod.
      modules: its fetched requirements: "@NAME//:proxy" of the extension go_modules.
      binaries: main package of each program, by the program's name, which becomes a label.
      go_sum: the module's go.sum.
      gotags: build tags.
      srcs: Go files of the separate module itself; their folders are below that of go.mod.
      x_defs: values of string variables, as for the linker's -X; "@MODULE" stands for that module's version in go.mod.
      **kwargs: common attributes.
    """
    _go_module_binaries(
        name = name,
        go_mod = go_mod,
        go_sum = go_sum,
        gotags = gotags,
        modules = modules,
        outs = binaries.keys(),
        packages = binaries.values(),
        srcs = srcs,
        x_defs = x_defs,
        **kwargs
    )
