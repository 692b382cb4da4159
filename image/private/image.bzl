# SPDX-License-Identifier: Apache-2.0
"""The rule behind constellation_image: one action for each step from packages to disk."""

load("//image/private:info.bzl", "ConstellationImageInfo")
load("//image/private:package.bzl", "find_package")
load("//image/private:root.bzl", "ROOT_ATTRIBUTES", "build_root")

# LZ4 in physical clusters of 16 KiB: of the choices measured (docs/image.md) the smallest that builds in less than ten
# seconds. Times and identifiers are fixed.
_EROFS_OPTIONS = [
    "--quiet",
    "--tar=f",
    "-zlz4hc,level=9",
    "-C16384",
    "-T0",
    "-U00000000-0000-0000-0000-000000000000",
]

def _run(ctx, tool, mnemonic, inputs, outputs, arguments):
    """Runs one of our tools; the tool is the name of a private attribute."""
    ctx.actions.run(
        executable = getattr(ctx.executable, tool),
        arguments = [arguments],
        inputs = inputs,
        outputs = outputs,
        mnemonic = mnemonic,
        progress_message = "{} of %{{label}}".format(mnemonic),
    )

def _declare(ctx, name):
    return ctx.actions.declare_file(ctx.label.name + "/" + name)

def _erofs(ctx, root):
    image = _declare(ctx, "root.erofs")
    arguments = ctx.actions.args()
    arguments.add_all(_EROFS_OPTIONS)
    arguments.add_all([image, root])
    _run(ctx, "_mkfs_erofs", "Erofs", [root], [image], arguments)
    return image

def _verity(ctx, root):
    tree = _declare(ctx, "root.verity")
    description = _declare(ctx, "root.json")
    arguments = ctx.actions.args()
    arguments.add("-root", root)
    arguments.add("-tree", tree)
    arguments.add("-description", description)
    _run(ctx, "_mkverity", "Verity", [root], [tree, description], arguments)
    return tree, description

def _uki(ctx, description, os_release):
    flavour = _declare(ctx, "flavour.conf")
    ctx.actions.write(flavour, "constellation.flavour={}\n".format(ctx.attr.flavour))
    uki = _declare(ctx, "image.efi")
    stub = find_package(ctx.files._boot, "systemd-boot-efi")
    kernel = find_package(ctx.files._boot, "linux-image-")
    arguments = ctx.actions.args()
    arguments.add("-stub-package", stub)
    arguments.add("-kernel-package", kernel)
    arguments.add("-initrd", ctx.file._initrd)
    arguments.add_joined("-cmdline", [ctx.file._cmdline, flavour], join_with = ",")
    arguments.add("-root", description)
    arguments.add("-os-release", os_release)
    arguments.add("-out", uki)
    inputs = [stub, kernel, ctx.file._initrd, ctx.file._cmdline, flavour, description, os_release]
    _run(ctx, "_mkuki", "Uki", inputs, [uki], arguments)
    return uki

def _disk(ctx, uki, root, tree, description):
    disk = _declare(ctx, "disk.raw")
    arguments = ctx.actions.args()
    arguments.add("-uki", uki)
    arguments.add("-root", root)
    arguments.add("-tree", tree)
    arguments.add("-description", description)
    arguments.add("-out", disk)
    _run(ctx, "_mkdisk", "Disk", [uki, root, tree, description], [disk], arguments)
    return disk

def _measurements(ctx, disk):
    measurements = _declare(ctx, "measurements.json")
    code = [file for file in ctx.files.firmware if file.basename.startswith("OVMF_CODE")][0]
    variables = [file for file in ctx.files.firmware if file.basename.startswith("OVMF_VARS")][0]
    arguments = ctx.actions.args()
    arguments.add("-disk", disk)
    arguments.add("-firmware-code", code)
    arguments.add("-firmware-vars", variables)
    arguments.add("-out", measurements)
    _run(ctx, "_predictor", "Predict", [disk, code, variables], [measurements], arguments)
    return measurements

def _sbom(ctx, root):
    sbom = _declare(ctx, "sbom.spdx.json")
    arguments = ctx.actions.args()
    arguments.add("-lock", ctx.file._lock)
    arguments.add("-inputs", root.inputs)
    arguments.add("-init", ctx.file._init)
    arguments.add("-files", root.files)
    arguments.add("-name", "constellation-{}-{}".format(ctx.attr.flavour, ctx.attr.version))
    arguments.add("-out", sbom)
    _run(ctx, "_mksbom", "Sbom", depset([ctx.file._lock, ctx.file._init, root.inputs, root.files], transitive = [root.binaries]), [sbom], arguments)
    return sbom

def _manifest(ctx, artifacts, description):
    manifest = _declare(ctx, "manifest.json")
    arguments = ctx.actions.args()
    arguments.add("-lock", ctx.file._lock)
    arguments.add("-root", description)
    arguments.add("-uki", artifacts[0])
    arguments.add("-out", manifest)
    arguments.add_all(artifacts)
    _run(ctx, "_mkmanifest", "Manifest", artifacts + [ctx.file._lock, description], [manifest], arguments)
    return manifest

def _constellation_image_impl(ctx):
    os_release = _declare(ctx, "os-release")
    ctx.actions.write(os_release, "\n".join([
        'NAME="Constellation"',
        "ID=constellation",
        'PRETTY_NAME="Constellation {} ({})"'.format(ctx.attr.version, ctx.attr.flavour),
        "VERSION_ID={}".format(ctx.attr.version),
        "IMAGE_ID=constellation",
        "IMAGE_VERSION={}".format(ctx.attr.version),
        "VARIANT_ID={}".format(ctx.attr.flavour),
        "",
    ]))
    root = build_root(ctx, os_release, find_package(ctx.files._boot, "linux-image-"))
    erofs = _erofs(ctx, root.tar)
    tree, description = _verity(ctx, erofs)
    uki = _uki(ctx, description, os_release)
    disk = _disk(ctx, uki, erofs, tree, description)
    measurements = _measurements(ctx, disk)
    sbom = _sbom(ctx, root)
    manifest = _manifest(ctx, [uki, disk, measurements, sbom, root.files, root.executables], description)
    outputs = depset([disk, uki, manifest, measurements, sbom, root.executables, root.files])
    return [
        DefaultInfo(files = outputs, runfiles = ctx.runfiles(transitive_files = outputs)),
        OutputGroupInfo(
            disk = depset([disk]),
            manifest = depset([manifest]),
            measurements = depset([measurements]),
            root = depset([erofs, tree, root.tar]),
            sbom = depset([sbom]),
            uki = depset([uki]),
        ),
        ConstellationImageInfo(
            disk = disk,
            flavour = ctx.attr.flavour,
            manifest = manifest,
            measurements = measurements,
            root_files = root.files,
            sbom = sbom,
            uki = uki,
        ),
    ]

def _tool(label):
    return attr.label(default = label, executable = True, cfg = "exec")

constellation_image = rule(
    implementation = _constellation_image_impl,
    attrs = ROOT_ATTRIBUTES | {
        "firmware": attr.label(default = "//image:firmware", doc = "code and variables of the machine's firmware"),
        "flavour": attr.string(mandatory = True, doc = "measured: it is on the kernel command line and in os-release"),
        "version": attr.string(mandatory = True),
        "_boot": attr.label(default = "@debian//:boot"),
        "_cmdline": attr.label(default = "//image:cmdline.conf", allow_single_file = True),
        "_init": attr.label(default = "//image/initrd/init", allow_single_file = True),
        "_initrd": attr.label(default = "//image/initrd:archive", allow_single_file = True),
        "_lock": attr.label(default = "//image/packages:lock.json", allow_single_file = True),
        "_mkdisk": _tool("//image/disk/mkdisk"),
        "_mkfs_erofs": _tool("@debian_tools//:mkfs.erofs"),
        "_mkmanifest": _tool("//image/manifest/mkmanifest"),
        "_mksbom": _tool("//image/sbom/mksbom"),
        "_mkuki": _tool("//image/uki/mkuki"),
        "_mkverity": _tool("//image/verity/mkverity"),
        "_predictor": _tool("//measurements/predict/predictor"),
    },
    doc = "A bootable, measured disk image; see defs.bzl.",
)
