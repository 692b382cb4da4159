# SPDX-License-Identifier: Apache-2.0
"""Programs out of locked Debian packages, as executables for build actions.

A `debian_tool` is the launcher (see toollauncher/) under the program's name, with the unpacked packages beside it as
runfiles. So a tool is the same on every machine, whatever C library and loader that has.
"""

def _debian_tool_impl(ctx):
    executable = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.symlink(output = executable, target_file = ctx.executable._launcher, is_executable = True)

    # The launcher finds the packages from the program's path: <root of the packages>/<program>.
    return [DefaultInfo(
        executable = executable,
        files = depset([executable]),
        runfiles = ctx.runfiles(
            files = ctx.files.root,
            root_symlinks = {"_tool/" + ctx.label.name: ctx.file.program},
        ),
    )]

debian_tool = rule(
    implementation = _debian_tool_impl,
    attrs = {
        "program": attr.label(mandatory = True, allow_single_file = True),
        "root": attr.label(mandatory = True, doc = "all files of the unpacked packages"),
        "_launcher": attr.label(
            default = "//image/packages/toollauncher",
            executable = True,
            cfg = "exec",
        ),
    },
    executable = True,
    doc = "A program of the unpacked packages that runs with their loader and libraries.",
)
