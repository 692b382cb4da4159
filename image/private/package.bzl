# SPDX-License-Identifier: Apache-2.0
"""Finding one of the locked packages."""

def find_package(files, prefix):
    """Finds the one package whose file's name begins with prefix.

    Args:
      files: the packages.
      prefix: the beginning of the name; a kernel's name goes on with its version.

    Returns:
      The file.
    """
    found = [file for file in files if file.basename.startswith(prefix)]
    if len(found) != 1:
        fail("{} packages begin with {}, not one".format(len(found), prefix))
    return found[0]
