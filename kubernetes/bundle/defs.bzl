# SPDX-License-Identifier: Apache-2.0
"""Container images and the bundle of them.

    oci_layer(
        name = "etcd_layer",
        files = {"//kubernetes/components:etcd": "usr/bin/etcd"},
    )

    oci_image(
        name = "etcd",
        entrypoint = ["/usr/bin/etcd"],
        layers = [":base_layer", ":etcd_layer"],
        version = "@go.etcd.io/etcd/server/v3",
    )

    component_bundle(
        name = "bundle",
        go_mods = ["//kubernetes/components:go.mod"],
        images = [":etcd"],
        kubernetes = "@k8s.io/kubernetes",
    )

makes a folder of the bundle's name with an OCI layout and components.json; see docs/components.md. A version "@MODULE"
is that module's in one of go_mods.
"""

ImageInfo = provider(
    doc = "A container image in the making.",
    fields = {
        "content": "a struct, as ImageContent of package bundle",
        "layers": "the files of its layers",
    },
)

def _oci_layer_impl(ctx):
    layer = ctx.actions.declare_file(ctx.label.name + ".tar.zst")
    files = []
    for sources, mode in [(ctx.attr.files, 0o755), (ctx.attr.data, 0o644)]:
        for target, path in sources.items():
            source = target[DefaultInfo].files.to_list()
            if len(source) != 1:
                fail("{} is {} files, not one".format(target.label, len(source)))
            files.append(struct(source = source[0].path, path = path, mode = mode, origin = target.label.package))
    links = ctx.actions.declare_file(ctx.label.name + ".links.conf")
    ctx.actions.write(links, "".join(["link {} {}\n".format(path, target) for path, target in ctx.attr.links.items()]))
    packages = [file for file in ctx.files.packages if file.extension == "deb"]
    declarations = [links] + ctx.files.declarations
    inputs = ctx.actions.declare_file(ctx.label.name + ".json")
    ctx.actions.write(inputs, json.encode_indent(struct(
        packages = [file.path for file in packages],
        selections = [file.path for file in ctx.files.selections],
        declarations = [file.path for file in declarations],
        files = files,
    )))
    arguments = ctx.actions.args()
    arguments.add("-inputs", inputs)
    arguments.add("-out", layer)
    ctx.actions.run(
        executable = ctx.executable._mklayer,
        arguments = [arguments],
        inputs = packages + ctx.files.selections + declarations + ctx.files.files + ctx.files.data + [inputs],
        outputs = [layer],
        mnemonic = "Layer",
        progress_message = "Layer %{label}",
    )
    return [DefaultInfo(files = depset([layer]))]

oci_layer = rule(
    implementation = _oci_layer_impl,
    attrs = {
        "data": attr.label_keyed_string_dict(allow_files = True, doc = "files that are no programs, each with its path"),
        "declarations": attr.label_list(allow_files = True, doc = "folders and links, as image/rootfs has them"),
        "files": attr.label_keyed_string_dict(allow_files = True, doc = "programs, each with its path"),
        "links": attr.string_dict(doc = "symbolic links: path, target"),
        "packages": attr.label_list(allow_files = [".deb"], doc = "locked packages to take files and libraries from"),
        "selections": attr.label_list(allow_files = True, doc = "which files of them, as image/rootfs has them"),
        "_mklayer": attr.label(default = "//kubernetes/bundle/mklayer", executable = True, cfg = "exec"),
    },
    doc = "A layer of container images: a tar archive compressed by zstd.",
)

def _oci_image_impl(ctx):
    return [
        DefaultInfo(files = depset(ctx.files.layers)),
        ImageInfo(
            content = struct(
                name = ctx.label.name,
                version = ctx.attr.version,
                layers = [layer.path for layer in ctx.files.layers],
                entrypoint = ctx.attr.entrypoint,
                env = ["PATH=/usr/sbin:/usr/bin"],
                user = ctx.attr.user,
            ),
            layers = ctx.files.layers,
        ),
    ]

oci_image = rule(
    implementation = _oci_image_impl,
    attrs = {
        "entrypoint": attr.string_list(mandatory = True),
        "layers": attr.label_list(allow_files = [".zst"], mandatory = True, doc = "the lowest first"),
        "user": attr.string(mandatory = True, doc = "UID:GID"),
        "version": attr.string(mandatory = True),
    },
    doc = "What an image consists of; a bundle makes it.",
)

def _component_bundle_impl(ctx):
    # Not the name alone: the Go package of that name has its files below it.
    out = ctx.actions.declare_directory(ctx.label.name + ".oci")
    programs = []
    for name, places in sorted(ctx.attr.programs.items()):
        image, path, install_path = places
        programs.append(struct(name = name, image = image, path = path, install_path = install_path))
    contents = ctx.actions.declare_file(ctx.label.name + ".contents.json")
    ctx.actions.write(contents, json.encode_indent(struct(
        kubernetes = ctx.attr.kubernetes,
        images = [image[ImageInfo].content for image in ctx.attr.images],
        programs = programs,
    )))
    arguments = ctx.actions.args()
    arguments.add("-contents", contents)
    arguments.add_all(ctx.files.go_mods, before_each = "-gomod")
    arguments.add_all("-out", [out], expand_directories = False)
    ctx.actions.run(
        executable = ctx.executable._mkbundle,
        arguments = [arguments],
        inputs = depset(
            [contents] + ctx.files.go_mods,
            transitive = [depset(image[ImageInfo].layers) for image in ctx.attr.images],
        ),
        outputs = [out],
        mnemonic = "Bundle",
        progress_message = "Bundle %{label}",
    )
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles([out]))]

component_bundle = rule(
    implementation = _component_bundle_impl,
    attrs = {
        "go_mods": attr.label_list(allow_files = True, doc = "go.mod files with versions"),
        "images": attr.label_list(mandatory = True, providers = [ImageInfo]),
        "kubernetes": attr.string(mandatory = True, doc = "version of Kubernetes"),
        "programs": attr.string_list_dict(doc = "programs of nodes by their names: image, path in the image, path on the node"),
        "_mkbundle": attr.label(default = "//kubernetes/bundle/mkbundle", executable = True, cfg = "exec"),
    },
    doc = "A component set and all of its content, in one folder.",
)

def _image_pins_impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name + ".txt")
    images = ctx.actions.declare_file(ctx.label.name + ".images.json")
    ctx.actions.write(images, json.encode_indent([image[ImageInfo].content for image in ctx.attr.images]))
    arguments = ctx.actions.args()
    arguments.add("-images", images)
    arguments.add("-out", out)
    ctx.actions.run(
        executable = ctx.executable._mkpins,
        arguments = [arguments],
        inputs = depset([images], transitive = [depset(image[ImageInfo].layers) for image in ctx.attr.images]),
        outputs = [out],
        mnemonic = "Pins",
        progress_message = "Pins %{label}",
    )
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles([out]))]

image_pins = rule(
    implementation = _image_pins_impl,
    attrs = {
        "images": attr.label_list(mandatory = True, providers = [ImageInfo]),
        "_mkpins": attr.label(default = "//kubernetes/bundle/mkpins", executable = True, cfg = "exec"),
    },
    doc = "The digests that images have in bundles, for the node's own image.",
)
