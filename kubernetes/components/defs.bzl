# SPDX-License-Identifier: Apache-2.0
"""command_link: another name for a program that does what its name says."""

def _command_link_impl(ctx):
    link = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.symlink(output = link, target_file = ctx.file.program, is_executable = True)
    return [DefaultInfo(executable = link, files = depset([link]), runfiles = ctx.runfiles([link, ctx.file.program]))]

command_link = rule(
    implementation = _command_link_impl,
    attrs = {"program": attr.label(allow_single_file = True, mandatory = True)},
    doc = "A link of the target's name to a program.",
    executable = True,
)
