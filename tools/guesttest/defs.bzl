# SPDX-License-Identifier: Apache-2.0
"""guest_test: a Go test that runs inside of a small virtual machine with the image's own kernel.

    guest_test(
        name = "disk_guest_test",
        srcs = ["open_guest_test.go"],
        embed = [":disk"],
        disks = {"data": "100G"},
    )

See the package's comment (guesttest.go) for how to write and to run one. The guest that tests share has the kernel
modules and programs that tests of storage need; others declare their own:

    guest(
        name = "net_guest",
        modules = ["wireguard"],
        programs = ["nftables:usr/sbin/nft"],
    )
"""

load("@rules_go//go:def.bzl", "go_test")
load("//image/private:package.bzl", "find_package")

GuestInfo = provider(
    doc = "What is the same for all runs of a guest.",
    fields = {
        "archive": "File: the common part of the first root",
        "kernel": "File: the kernel",
        "tpm_kernel": "File: the kernel for guests with a TPM",
    },
)

def _guest_impl(ctx):
    kernel = ctx.actions.declare_file(ctx.label.name + "/vmlinux")
    tpm_kernel = ctx.actions.declare_file(ctx.label.name + "/vmlinuz")
    archive = ctx.actions.declare_file(ctx.label.name + "/guest.cpio")
    package = find_package(ctx.files._boot, "linux-image-")
    arguments = ctx.actions.args()
    arguments.add("-init", ctx.executable._init)
    arguments.add("-kernel-package", package)
    arguments.add_joined("-modules", ctx.attr.modules, join_with = ",")
    arguments.add_joined("-programs", ctx.attr.programs, join_with = ",")
    arguments.add("-kernel", kernel)
    arguments.add("-tpm-kernel", tpm_kernel)
    arguments.add("-archive", archive)
    arguments.add_all(ctx.files._packages)
    ctx.actions.run(
        executable = ctx.executable._mkguest,
        arguments = [arguments],
        inputs = ctx.files._packages + [ctx.executable._init, package],
        outputs = [kernel, tpm_kernel, archive],
        mnemonic = "Guest",
        progress_message = "Guest %{label}",
    )
    return [
        DefaultInfo(files = depset([kernel, tpm_kernel, archive])),
        GuestInfo(archive = archive, kernel = kernel, tpm_kernel = tpm_kernel),
    ]

guest = rule(
    implementation = _guest_impl,
    attrs = {
        "modules": attr.string_list(doc = "kernel modules to load before a test starts; what they depend on comes along"),
        "programs": attr.string_list(doc = "files of locked packages, as package:path; their libraries come along"),
        "_boot": attr.label(default = "@debian//:boot"),
        "_init": attr.label(default = "//tools/guesttest/init", executable = True, cfg = "target"),
        "_mkguest": attr.label(default = "//tools/guesttest/mkguest", executable = True, cfg = "exec"),
        "_packages": attr.label_list(default = ["@debian//:root", "@debian//:tools"]),
    },
    doc = "A kernel and a first root for tests.",
)

def _guest_test_impl(ctx):
    info = ctx.attr.guest[GuestInfo]
    kernel = info.tpm_kernel if ctx.attr.tpm else info.kernel
    test = ctx.attr.test
    binary = test[DefaultInfo].files_to_run.executable
    files = [file for file in test[DefaultInfo].default_runfiles.files.to_list() if file != binary]
    config = ctx.actions.declare_file(ctx.label.name + ".json")
    ctx.actions.write(config, json.encode_indent(struct(
        kernel = kernel.short_path,
        archive = info.archive.short_path,
        binary = binary.short_path,
        package = test.label.package,
        runfiles = [file.short_path for file in files],
        disks = [struct(name = name, size = size) for name, size in ctx.attr.disks.items()],
        memory = ctx.attr.memory,
        cpus = ctx.attr.cpus,
        tpm = ctx.attr.tpm,
    )))
    launcher = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.symlink(output = launcher, target_file = ctx.executable._run, is_executable = True)
    environment = dict(test[RunEnvironmentInfo].environment)
    environment["GUESTTEST_CONFIG"] = config.short_path
    return [
        DefaultInfo(
            executable = launcher,
            runfiles = ctx.runfiles(files + [binary, config, kernel, info.archive]),
        ),
        RunEnvironmentInfo(environment, test[RunEnvironmentInfo].inherited_environment),
        coverage_common.instrumented_files_info(ctx, dependency_attributes = ["test"]),
    ]

_guest_test = rule(
    implementation = _guest_test_impl,
    attrs = {
        "cpus": attr.int(default = 2),
        "disks": attr.string_dict(),
        "guest": attr.label(default = "//tools/guesttest:guest", providers = [GuestInfo]),
        "memory": attr.int(default = 1024),
        "test": attr.label(mandatory = True, executable = True, cfg = "target"),
        "tpm": attr.bool(),
        # Bazel finds by these what merges coverage.
        "_lcov_merger": attr.label(
            default = configuration_field(fragment = "coverage", name = "output_generator"),
            cfg = "exec",
        ),
        "_run": attr.label(default = "//tools/guesttest/run", executable = True, cfg = "exec"),
    },
    test = True,
)

def guest_test(name, disks = {}, guest = None, memory = 1024, cpus = 2, tpm = False, size = "medium", tags = [], gotags = [], args = [], **kwargs):
    """Runs a Go test in a guest.

    Args:
      name: the test's name.
      disks: scratch disks, each with its size, such as {"data": "100G"}; they are sparse and blank.
      guest: the guest, a target of the rule guest; by default the one that tests share.
      memory: the guest's memory in MiB.
      cpus: its processors.
      tpm: whether it has a software TPM (swtpm), blank.
      size: as of any test.
      tags: as of any test.
      gotags: build tags beside guest.
      args: the test's arguments.
      **kwargs: as of go_test: srcs, embed, deps, data, env and others.
    """
    go_test(
        name = name + "_binary",
        gotags = ["guest"] + gotags,
        tags = tags + ["manual"],
        **kwargs
    )
    _guest_test(
        name = name,
        size = size,
        args = args,
        cpus = cpus,
        disks = disks,
        guest = guest or "//tools/guesttest:guest",
        memory = memory,
        tags = tags + ["cpu:2", "requires-qemu"],
        test = ":" + name + "_binary",
        tpm = tpm,
    )
