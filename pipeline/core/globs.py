"""Globs below a folder, with the meaning that `pathlib.Path.glob` gives them, for millions of files.

A folder is listed once, whatever the pattern; nothing is kept but the folders still to be listed.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

#: What an entry of a folder is, links not followed.
FILE, FOLDER, OTHER = "file", "folder", "other"

#: Folders that vanish or may not be listed are passed over, as pathlib does.
_PASSED_OVER = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)

Test = Callable[[str], object]


def is_glob(pattern: str) -> bool:
    """Does `pattern` hold a wildcard?"""
    return any(character in pattern for character in "*?[")


def check_glob(pattern: str) -> str:
    """`pattern` if it can name files below a folder. Raises `ValueError`."""
    parts = PurePosixPath(pattern).parts
    if not parts:
        raise ValueError(f"{pattern!r} names no file; expected a glob or a path below the root")
    if PurePosixPath(pattern).is_absolute() or ".." in parts:
        raise ValueError(f"{pattern!r} leaves the root; expected a path inside it")
    if any("**" in part and part != "**" for part in parts):
        raise ValueError(f"{pattern!r} is no glob: '**' stands for whole folders; expected it between slashes")
    return pattern


def find_below(root: str, pattern: str) -> Iterator[tuple[str, bool]]:
    """The matches of `pattern` that are no folders, each once, in no order: path below `root`, and is it plain.

    Plain is an ordinary file of the tree itself; what is not has to be looked at: a link, what lies behind one, a FIFO.
    `**` stands for any number of folders and follows no links, `*` and `?` do; hidden names are like others.
    Raises `OSError` if a folder cannot be listed for another reason than a missing permission.
    """
    parts = PurePosixPath(check_glob(pattern)).parts
    if pattern.endswith("/") or parts[-1] == "**":
        return  # such a pattern matches folders alone
    tests = [_test(part) for part in parts]
    # a folder, and the parts of the pattern that its entries are compared with, as in a nondeterministic automaton
    waiting = [("", _with_empty(parts, {0}), False)]
    while waiting:
        folder, active, linked = waiting.pop()
        for name, kind, link in _entries(root, folder, parts, active):
            found, below = False, set()
            for k in active:
                if parts[k] == "**":
                    if kind == FOLDER:
                        below.add(k)
                elif tests[k](name):
                    if k + 1 < len(parts):
                        below.add(k + 1)
                    else:
                        # as pathlib has it, a name alone matches what exists, a wildcard what is listed
                        found = found or not link or is_glob(parts[k]) or os.path.exists(f"{root}/{folder}{name}")
            if found and kind != FOLDER:
                yield folder + name, kind == FILE and not linked
            if below and kind != FILE:
                waiting.append((f"{folder}{name}/", _with_empty(parts, below), linked or link))


def _with_empty(parts: tuple[str, ...], active: set[int]) -> frozenset[int]:
    """`active` and what follows where `**` stands for no folder at all."""
    reached = set(active)
    for k in sorted(active):
        while parts[k] == "**" and k + 1 < len(parts):
            k += 1
            reached.add(k)
    return frozenset(reached)


def _test(part: str) -> Test:
    if part == "*":
        return lambda name: True
    if not is_glob(part):
        return lambda name: name == part
    return re.compile(fnmatch.translate(part)).match


def _entries(root: str, folder: str, parts: tuple[str, ...], active: frozenset[int]) -> Iterator[tuple[str, str, bool]]:
    """Names in a folder that may match, each with its kind and whether it is a link."""
    names = {parts[k] for k in active}
    if not any(map(is_glob, names)):  # names alone: the folder, which may be large, need not be listed
        for name in names:
            path = f"{root}/{folder}{name}"
            if os.path.lexists(path):
                link = os.path.islink(path)
                plain = FOLDER if os.path.isdir(path) else FILE if os.path.isfile(path) else OTHER
                yield name, OTHER if link else plain, link
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
        if error.errno not in _PASSED_OVER:
            raise
