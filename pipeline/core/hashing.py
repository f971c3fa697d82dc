"""Content hashes for cache keys: a setting that names a file enters a key by content, never by path."""

from __future__ import annotations

import ast
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from pipeline.core.atomic_files import write_text
from pipeline.core.errors import UserError
from pipeline.core.reading import MAX_TEXT, is_file, open_file, read_text, shorten

_MEMO_ENTRIES = 1000


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of an ordinary file's bytes, in hexadecimal. Raises `OSError`."""
    with open_file(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_digest(path: Path) -> str:
    """Returns the SHA-256 of a file's content: of a Python config its code with every `_base_`, else its bytes.

    A config's digest is that of its syntax tree and, in order, those of its `_base_` files; layout is ignored. Other
    digests are remembered with path, size and modification time in the user's cache directory, so that a large file is
    hashed once. Raises `UserError` if a file is missing or no valid Python config, or `_base_` is circular.
    """
    if not is_file(path):
        raise UserError(f"{shorten(path)}: no such file; a setting names it and its content is part of the key")
    if path.suffix != ".py":
        return _remembered_digest(path)
    return hashlib.sha256("".join(_config_trees(path, ())).encode()).hexdigest()


def _config_trees(path: Path, parents: tuple[Path, ...]) -> list[str]:
    path = Path(os.path.realpath(path))
    if path in parents:
        raise UserError(f"{path}: _base_ includes the file itself")
    try:
        tree = ast.parse(read_text(path, f"a Python config, which {parents[-1] if parents else 'a setting'} names"))
        values = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "_base_" for t in node.targets)
        ]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise UserError(f"{path}: is not a valid Python config: {shorten(error)}") from None
    trees = [ast.dump(tree)]
    for bases in values:
        for base in [bases] if isinstance(bases, str) else bases:
            if not isinstance(base, str):
                raise UserError(f"{path}: _base_ holds a {type(base).__name__}, expected the names of files")
            trees += _config_trees(path.parent / base, (*parents, path))
    return trees


def _read_memo(path: Path) -> dict[str, str]:
    """Returns the remembered digests; none if the file is missing or damaged."""
    try:
        with open_file(path) as stream:
            memo = json.loads(stream.read(MAX_TEXT))
    except (OSError, ValueError, RecursionError):
        return {}
    return memo if isinstance(memo, dict) and all(isinstance(value, str) for value in memo.values()) else {}


def _remembered_digest(path: Path) -> str:
    stat = path.stat()
    name = f"{os.path.realpath(path)}:{stat.st_size}:{stat.st_mtime_ns}"
    memo_path = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "goodsam-offline", "digests.json")
    memo = _read_memo(memo_path)
    if name not in memo:
        memo[name] = file_digest(path)
        with suppress(OSError):  # with a read-only home the file is hashed again next time
            write_text(memo_path, json.dumps(dict(list(memo.items())[-_MEMO_ENTRIES:])))
    return memo[name]
