# SPDX-License-Identifier: Apache-2.0
"""Brings the locked Debian packages into the build.

The module extension `debian` reads lock.json, which is all that it trusts, and makes two repositories:

* `@debian`: every locked package as `@debian//:NAME.deb`, and per group of the lock a filegroup: `@debian//:root`,
  `:boot`, `:firmware`, `:tools`.
* `@debian_tools`: the group `tools` unpacked, and its programs as executables, `@debian_tools//:mkfs.erofs` and so on,
  which run with their own loader and libraries: see debian_tool.bzl.

All packages are fetched at once, each checked by its SHA-256. They stay in Bazel's repository cache under that hash:
a fetch that broke off continues with what is missing, and a second one needs no network. The mirrors come from
DEBIAN_MIRROR and DEBIAN_SECURITY_MIRROR (several addresses are separated by spaces), else from the machine's apt sources.
"""

_LOCK = Label("//image/packages:lock.json")

_MISSING = """
{count} of {total} Debian packages could not be fetched (no mirror has them, or what it sent is not what the lock names):
{failures}
Asked were {mirrors}.
If these cannot be reached, try again with a network: packages that were fetched are kept, only the missing ones will be
asked for again. If they lack the files, that is because mirrors drop a version soon after a newer one appears, and there
are two ways out:
  * take the versions that mirrors have now:    tools/bazel run //image/packages:update
  * fetch the locked ones from an archive of snapshots, which keeps all versions: set DEBIAN_MIRROR, and
    DEBIAN_SECURITY_MIRROR for packages of debian-security, to base addresses of its folders"""

_NO_MIRROR = """
No mirror of the Debian archive "{archive}" is known: the machine's apt sources name none, and {variable} is not set.
Set it to the base address of a mirror, the folder that holds "dists" and "pool"."""

_ARCHIVES = {
    "debian": "DEBIAN_MIRROR",
    "debian-security": "DEBIAN_SECURITY_MIRROR",
}

def _is_http(uri):
    return uri.startswith("http://") or uri.startswith("https://")

def _serves(uri):
    """Tells by its path which archive an address leads to: "debian", "debian-security" or ""."""
    segments = uri.split("://", 1)[1].split("/")[1:]
    for archive in ["debian-security", "debian"]:
        if archive in segments:
            return archive
    return ""

def _one_line_uris(text):
    """Reads "deb [options] URI suite component..." lines."""
    uris = []
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        if not line.startswith("deb ") and not line.startswith("deb\t"):
            continue
        line = line[3:].strip()
        if line.startswith("["):
            line = line.partition("]")[2].strip()
        uris.append(line.split(" ")[0].split("\t")[0])
    return uris

def _deb822_uris(text):
    """Reads the URIs of enabled "Types: deb" stanzas."""
    uris = []
    fields = {}
    name = ""
    for line in text.splitlines() + [""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if "deb" in fields.get("types", "").split(" ") and fields.get("enabled", "yes").lower() != "no":
                uris.extend([uri for uri in fields.get("uris", "").split(" ") if uri])
            fields = {}
            name = ""
        elif line[0] in " \t":
            fields[name] = fields.get(name, "") + " " + line.strip()
        else:
            name, _, value = line.partition(":")
            name = name.lower()
            fields[name] = value.strip().replace("\t", " ")
    return uris

def _expand(ctx, uri):
    """Follows the mirror+file scheme of Debian's cloud images to the addresses in that file."""
    if not uri.startswith("mirror+file:"):
        return [uri]
    path = ctx.path("/" + uri[len("mirror+file:"):].lstrip("/"))
    if not path.exists:
        return []
    return [line.split("\t")[0].strip() for line in ctx.read(path, watch = "no").splitlines()]

def _apt_uris(ctx):
    apt = ctx.path("/etc/apt")
    files = [apt.get_child("sources.list")]
    parts = apt.get_child("sources.list.d")
    if parts.exists:
        files.extend(sorted(parts.readdir(watch = "no"), key = str))
    uris = []
    for file in files:
        if not file.exists:
            continue
        if file.basename.endswith(".list"):
            uris.extend(_one_line_uris(ctx.read(file, watch = "no")))
        elif file.basename.endswith(".sources"):
            uris.extend(_deb822_uris(ctx.read(file, watch = "no")))
    return [expanded.rstrip("/") for uri in uris for expanded in _expand(ctx, uri) if _is_http(expanded)]

def _find_mirrors(ctx):
    """Gives the base addresses of each archive. The rules are those of FindMirrors in package archive."""

    # Where the bytes come from is no input of the build, so that another mirror does not mean another fetch.
    environ = ctx.os.environ
    configured = _apt_uris(ctx)
    mirrors = {}
    for archive, variable in _ARCHIVES.items():
        named = [uri.rstrip("/") for uri in environ.get(variable, "").split(" ") if uri]
        for uri in named:
            if not _is_http(uri):
                fail("{}: {} is not an http or https address".format(variable, uri))
        mirrors[archive] = named or [uri for uri in configured if _serves(uri) == archive]
    if not mirrors["debian-security"]:
        mirrors["debian-security"] = [uri + "-security" for uri in mirrors["debian"] if uri.endswith("/debian")]
    return mirrors

def _debian_impl(ctx):
    lock = json.decode(ctx.read(ctx.attr.lock))
    mirrors = _find_mirrors(ctx)
    total = len(lock["packages"])
    ctx.report_progress("fetching {} packages".format(total))
    pending = []
    groups = {}
    for package in lock["packages"]:
        bases = mirrors[package["archive"]]
        if not bases:
            fail(_NO_MIRROR.format(archive = package["archive"], variable = _ARCHIVES[package["archive"]]))
        file = package["name"] + ".deb"
        for group in package["groups"]:
            groups.setdefault(group, []).append(file)
        pending.append((package, ctx.download(
            url = [base + "/" + package["path"] for base in bases],
            output = file,
            sha256 = package["sha256"],
            allow_fail = True,
            block = False,
        )))

    failures = []
    asked = []
    for i, (package, download) in enumerate(pending):
        ctx.report_progress("fetching {} packages, {} done".format(total, i))
        if not download.wait().success:
            failures.append("  {}/{}".format(package["archive"], package["path"]))
            asked.extend([base for base in mirrors[package["archive"]] if base not in asked])
    if failures:
        shown = failures[:10] + ["  ... and {} more".format(len(failures) - 10)] if len(failures) > 10 else failures
        fail(_MISSING.format(count = len(failures), total = total, failures = "\n".join(shown), mirrors = ", ".join(asked)))

    lines = [
        "# Written by image/packages/debian.bzl.",
        'package(default_visibility = ["//visibility:public"])',
        'exports_files(glob(["*.deb"]))',
    ]
    for group, files in sorted(groups.items()):
        lines.append("filegroup(name = {}, srcs = {})".format(repr(group), repr(files)))
    ctx.file("BUILD.bazel", "\n".join(lines) + "\n", executable = False)

_debian = repository_rule(
    implementation = _debian_impl,
    attrs = {"lock": attr.label(mandatory = True, allow_single_file = True)},
    doc = "The files of all locked packages.",
)

# Programs of @debian_tools, each with its place in the packages. A name that a program is called by (mtools is one
# program of many names) is what its wrapper is called.
_TOOLS = {
    "depmod": "usr/bin/kmod",
    "dump.erofs": "usr/bin/dump.erofs",
    "fsck.erofs": "usr/bin/fsck.erofs",
    "ldconfig": "usr/sbin/ldconfig",
    "mcopy": "usr/bin/mtools",
    "mdir": "usr/bin/mtools",
    "mformat": "usr/bin/mtools",
    "mkfs.erofs": "usr/bin/mkfs.erofs",
    "mmd": "usr/bin/mtools",
    "modinfo": "usr/bin/kmod",
    "mtools": "usr/bin/mtools",
    "veritysetup": "usr/sbin/veritysetup",
}

def _debian_tools_impl(ctx):
    for label in ctx.attr.packages:
        ctx.report_progress("unpacking " + label.name)
        ctx.extract(ctx.path(label), output = "package")
        members = [member for member in ctx.path("package").readdir() if member.basename.startswith("data.tar")]
        if len(members) != 1:
            fail("{} has no data member".format(label.name))
        ctx.extract(members[0], output = "root")
        ctx.delete("package")
    for folder in ["etc", "usr/include", "usr/share", "var"]:
        ctx.delete("root/" + folder)

    lines = [
        "# Written by image/packages/debian.bzl.",
        'load("{}", "debian_tool")'.format(Label("//image/packages:debian_tool.bzl")),
        'package(default_visibility = ["//visibility:public"])',
        'filegroup(name = "root", srcs = glob(["root/**"]))',
    ]
    for name, program in sorted(_TOOLS.items()):
        if not ctx.path("root/" + program).exists:
            fail("none of the locked packages of the group tools brings {}, which {} needs".format(program, name))
        lines.append('debian_tool(name = {}, program = {}, root = ":root")'.format(repr(name), repr("root/" + program)))
    ctx.file("BUILD.bazel", "\n".join(lines) + "\n", executable = False)

_debian_tools = repository_rule(
    implementation = _debian_tools_impl,
    attrs = {"packages": attr.label_list(mandatory = True, allow_files = True)},
    doc = "The unpacked packages of the group tools and wrappers for their programs.",
)

def _extension_impl(ctx):
    lock = json.decode(ctx.read(_LOCK))
    _debian(name = "debian", lock = _LOCK)
    _debian_tools(
        name = "debian_tools",
        packages = ["@debian//:{}.deb".format(p["name"]) for p in lock["packages"] if "tools" in p["groups"]],
    )
    return ctx.extension_metadata(
        reproducible = True,
        root_module_direct_deps = ["debian", "debian_tools"],
        root_module_direct_dev_deps = [],
    )

debian = module_extension(implementation = _extension_impl)
