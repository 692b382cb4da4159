# SPDX-License-Identifier: Apache-2.0
"""The initrd, which all flavours share."""

load("//image/private:package.bzl", "find_package")

def _initrd_impl(ctx):
    archive = ctx.actions.declare_file(ctx.label.name + ".cpio.zst")
    parts = ctx.actions.declare_file(ctx.label.name + ".json")
    kernel = find_package(ctx.files._boot, "linux-image-")
    arguments = ctx.actions.args()
    arguments.add("-init", ctx.file.init)
    arguments.add("-kernel-package", kernel)
    arguments.add("-modules", ctx.file.modules)
    arguments.add("-out", archive)
    arguments.add("-parts", parts)
    ctx.actions.run(
        executable = ctx.executable._mkinitrd,
        arguments = [arguments],
        inputs = [ctx.file.init, kernel, ctx.file.modules],
        outputs = [archive, parts],
        mnemonic = "Initrd",
        progress_message = "Initrd %{label}",
    )
    return [
        DefaultInfo(files = depset([archive])),
        OutputGroupInfo(parts = depset([parts])),
    ]

initrd = rule(
    implementation = _initrd_impl,
    attrs = {
        "init": attr.label(allow_single_file = True, mandatory = True, doc = "the program that becomes /init"),
        "modules": attr.label(allow_single_file = True, mandatory = True, doc = "names of the kernel modules to load"),
        "_boot": attr.label(default = "@debian//:boot"),
        "_mkinitrd": attr.label(default = "//image/initrd/mkinitrd", executable = True, cfg = "exec"),
    },
    doc = "An archive that the kernel unpacks as its first root; the output group parts says what its bytes are for.",
)
