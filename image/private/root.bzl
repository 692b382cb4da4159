# SPDX-License-Identifier: Apache-2.0
"""The step that composes the root of an image."""

def _tool(label):
    return attr.label(default = label, executable = True, cfg = "exec")

ROOT_ATTRIBUTES = {
    "binaries": attr.label_keyed_string_dict(
        allow_files = True,
        doc = "our programs, each with its path in the root",
    ),
    "debug": attr.bool(doc = "allow a shell"),
    "declarations": attr.label_list(allow_files = True, doc = "further declarations, after rootfs/root.conf"),
    "executables": attr.label(
        allow_single_file = True,
        mandatory = True,
        doc = "the golden list of what can be executed",
    ),
    "files": attr.label_keyed_string_dict(
        allow_files = True,
        doc = "our files, each with its path in the root",
    ),
    "links": attr.string_dict(doc = "symbolic links: path in the root, target"),
    "packages": attr.label_list(
        allow_files = [".deb"],
        default = ["@debian//:root"],
        doc = "the packages that the selections choose from",
    ),
    "selections": attr.label_list(allow_files = True, doc = "further selections, after rootfs/packages.conf"),
    "trees": attr.label_list(allow_files = True, doc = "further trees of files, after rootfs/tree"),
    "_declaration": attr.label(default = "//image/rootfs:root.conf", allow_single_file = True),
    "_depmod": _tool("@debian_tools//:depmod"),
    "_ldconfig": _tool("@debian_tools//:ldconfig"),
    "_mkrootfs": _tool("//image/rootfs/mkrootfs"),
    "_modules": attr.label(default = "//image/rootfs:modules.txt", allow_single_file = True),
    "_selection": attr.label(default = "//image/rootfs:packages.conf", allow_single_file = True),
    "_tree": attr.label(default = "//image/rootfs:tree"),
}

def _entry(file, path, mode, origin):
    return struct(source = file.path, path = path, mode = mode, origin = origin)

def _tree_entries(files):
    """Places files by their path below the folder tree or tree-FLAVOUR that they lie in."""
    entries = []
    for file in files:
        package, _, rest = file.short_path.partition("/tree")
        folder, _, path = rest.partition("/")
        entries.append(_entry(file, path, 0o644, package + "/tree" + folder))
    return entries

def _single(target):
    files = target[DefaultInfo].files.to_list()
    if len(files) != 1:
        fail("{} is {} files, not one".format(target.label, len(files)))
    return files[0]

def _origin(target):
    """Names the folder of a program for people, without the folders that only hold main packages."""
    package = target.label.package
    return package.partition("/cmd/")[0]

def build_root(ctx, os_release, kernel):
    """Composes the root.

    Args:
      ctx: the rule's context, with ROOT_ATTRIBUTES.
      os_release: the file that becomes os-release.
      kernel: the package that holds the kernel's modules.

    Returns:
      A struct of files: tar, files (the description of each file), executables, inputs, and binaries (a depset).
    """
    entries = [_entry(os_release, "usr/lib/os-release", 0o644, "image")]
    sources = [os_release]
    for tree in [ctx.files._tree, ctx.files.trees]:
        entries.extend(_tree_entries(tree))
        sources.extend(tree)
    for target, path in ctx.attr.files.items():
        entries.append(_entry(_single(target), path, 0o644, _origin(target)))
        sources.append(_single(target))
    binaries = []
    for target, path in ctx.attr.binaries.items():
        entries.append(_entry(_single(target), path, 0o755, _origin(target)))
        binaries.append(_single(target))

    links = ctx.actions.declare_file(ctx.label.name + "/links.conf")
    ctx.actions.write(links, "".join(["link {} {}\n".format(path, target) for path, target in ctx.attr.links.items()]))
    packages = [file for file in ctx.files.packages if file.extension == "deb"]
    selections = [ctx.file._selection] + ctx.files.selections
    declarations = [ctx.file._declaration, links] + ctx.files.declarations

    inputs = ctx.actions.declare_file(ctx.label.name + "/root.inputs.json")
    ctx.actions.write(inputs, json.encode_indent(struct(
        packages = [file.path for file in packages],
        kernelPackage = kernel.path,
        selections = [file.path for file in selections],
        declarations = [file.path for file in declarations],
        modules = [ctx.file._modules.path],
        files = entries,
        ldconfig = ctx.executable._ldconfig.path,
        depmod = ctx.executable._depmod.path,
        executables = ctx.file.executables.path,
        goldenName = ctx.file.executables.short_path,
        debug = ctx.attr.debug,
    )))
    tar = ctx.actions.declare_file(ctx.label.name + "/root.tar")
    files = ctx.actions.declare_file(ctx.label.name + "/root.files.json")
    executables = ctx.actions.declare_file(ctx.label.name + "/executables.txt")
    arguments = ctx.actions.args()
    arguments.add("-inputs", inputs)
    arguments.add("-out", tar)
    arguments.add("-files", files)
    arguments.add("-executables", executables)
    ctx.actions.run(
        executable = ctx.executable._mkrootfs,
        arguments = [arguments],
        inputs = depset(
            packages + selections + declarations + sources + binaries +
            [inputs, kernel, ctx.file._modules, ctx.file.executables],
        ),
        outputs = [tar, files, executables],
        tools = [ctx.attr._ldconfig[DefaultInfo].files_to_run, ctx.attr._depmod[DefaultInfo].files_to_run],
        mnemonic = "Root",
        progress_message = "Root of %{label}",
    )
    return struct(tar = tar, files = files, executables = executables, inputs = inputs, binaries = depset(binaries))
