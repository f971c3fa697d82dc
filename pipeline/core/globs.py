"""Globs below a folder with the meaning of `pathlib.Path.glob`, for millions of files.

Each folder is listed once for each pattern, and only the folders still to be listed are kept in memory.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

#: Type of a folder's entry; a link is `OTHER`.
FILE, FOLDER, OTHER = "file", "folder", "other"

#: Errors for which a folder is skipped, as pathlib does.
_SKIPPED_ERRNOS = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


def is_glob(pattern: str) -> bool:
    """Returns whether `pattern` holds a wildcard."""
    return any(character in pattern for character in "*?[")


def check_glob(pattern: str) -> str:
    """Returns `pattern`. Raises `ValueError` if it cannot name files below a folder."""
    parts = PurePosixPath(pattern).parts
    if not parts:
        raise ValueError(f"{pattern!r} names no file; expected a glob or a path below the root")
    if PurePosixPath(pattern).is_absolute() or ".." in parts:
        raise ValueError(f"{pattern!r} leaves the root; expected a path inside it")
    if any("**" in part and part != "**" for part in parts):
        raise ValueError(f"{pattern!r} is no glob: '**' matches whole folders; expected it between slashes")
    return pattern


def find_below(root: str, pattern: str) -> Iterator[tuple[str, bool]]:
    """Finds everything but folders that `pattern` matches; hidden names match like others.

    `**` matches any number of folders and follows no links; `*` and `?` do. Raises `OSError` if a folder cannot be
    listed for another reason than a missing permission.

    Yields:
        The path below `root`, each once, in no order, and whether it is an ordinary file that no link leads to. Other
        matches (a link, a file behind a linked folder, a FIFO) need a closer check.
    """
    parts = PurePosixPath(check_glob(pattern)).parts
    if pattern.endswith("/") or parts[-1] == "**":
        return  # such a pattern matches folders only
    tests = [re.compile(fnmatch.translate(part)).match for part in parts]
    # A nondeterministic automaton: each folder waits with the parts that its entries are compared with.
    waiting = [("", _with_empty_matches(parts, {0}), False)]
    while waiting:
        folder, active, linked = waiting.pop()
        for name, kind, link in _entries(root, folder, parts, active):
            matches, below = False, set()
            for k in active:
                if parts[k] == "**":
                    if kind == FOLDER:
                        below.add(k)
                elif tests[k](name):
                    if k + 1 < len(parts):
                        below.add(k + 1)
                    else:
                        # as in pathlib, a plain name matches only what exists, a wildcard whatever is listed
                        matches = matches or not link or is_glob(parts[k]) or os.path.exists(f"{root}/{folder}{name}")
            if matches and kind != FOLDER:
                yield folder + name, kind == FILE and not linked
            if below and kind != FILE:
                waiting.append((f"{folder}{name}/", _with_empty_matches(parts, below), linked or link))


def _with_empty_matches(parts: tuple[str, ...], active: set[int]) -> frozenset[int]:
    """Adds the parts that are reached where `**` matches no folder at all."""
    reached = set(active)
    for k in sorted(active):
        while parts[k] == "**" and k + 1 < len(parts):
            k += 1
            reached.add(k)
    return frozenset(reached)


def _entries(root: str, folder: str, parts: tuple[str, ...], active: frozenset[int]) -> Iterator[tuple[str, str, bool]]:
    """Yields name, type and whether it is a link, for the entries of a folder that may match."""
    names = {parts[k] for k in active}
    if not any(map(is_glob, names)):  # plain names: the folder, which may be large, need not be listed
        for name in names:
            path = f"{root}/{folder}{name}"
            if os.path.islink(path):
                yield name, OTHER, True
            elif os.path.exists(path):
                yield name, FOLDER if os.path.isdir(path) else FILE if os.path.isfile(path) else OTHER, False
        return
    try:
        with os.scandir(f"{root}/{folder}") as listing:
            for entry in listing:
                if entry.is_file(follow_symlinks=False):
                    yield entry.name, FILE, False
                elif entry.is_dir(follow_symlinks=False):
                    yield entry.name, FOLDER, False
                else:
                    yield entry.name, OTHER, entry.is_symlink()
    except OSError as error:
        if error.errno not in _SKIPPED_ERRNOS:
            raise
