# SPDX-License-Identifier: Apache-2.0
"""Firmware out of a locked package."""

_FILES = ["OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"]

def _firmware_impl(ctx):
    outputs = [ctx.actions.declare_file(ctx.label.name + "/" + name) for name in _FILES]
    arguments = ctx.actions.args()
    arguments.add("-package", ctx.file.package)
    for name, output in zip(_FILES, outputs):
        arguments.add("-file", "usr/share/OVMF/{}={}".format(name, output.path))
    ctx.actions.run(
        executable = ctx.executable._extract,
        arguments = [arguments],
        inputs = [ctx.file.package],
        outputs = outputs,
        mnemonic = "Firmware",
        progress_message = "Firmware %{label}",
    )
    return [DefaultInfo(files = depset(outputs), runfiles = ctx.runfiles(outputs))]

firmware = rule(
    implementation = _firmware_impl,
    attrs = {
        "package": attr.label(allow_single_file = [".deb"], mandatory = True),
        "_extract": attr.label(default = "//image/deb/extract", executable = True, cfg = "exec"),
    },
    doc = "Code and variables of OVMF.",
)
