"""What a file says, as a short text: settings that name files enter the keys by content, never by path."""

from __future__ import annotations

import ast
import hashlib
import json
import os
from pathlib import Path

from pipeline.core.atomic_files import whole_file
from pipeline.core.errors import UserError
from pipeline.core.reading import MAX_TEXT, is_file, open_file, read_text, shortened

_MEMO_ENTRIES = 1000


def file_digest(path: Path) -> str:
    """SHA-256 of an ordinary file's bytes, in hexadecimal. Raises `OSError`."""
    digest = hashlib.sha256()
    with open_file(path) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def content_digest(path: Path) -> str:
    """SHA-256 of a file's bytes; of a Python config, of its code and of every `_base_` (layout does not count).

    Large files are hashed once: the digest is remembered with path, size and modification time in the user's
    cache directory. Raises `UserError` if the file is missing or is no valid Python.
    """
    if not is_file(path):
        raise UserError(f"{shortened(path)}: no such file; a setting names it and its content is part of the key")
    if path.suffix == ".py":
        return python_config_digest(path)
    return _remembered_digest(path)


def python_config_digest(path: Path) -> str:
    """SHA-256 over the syntax tree of a Python config file and, in order, those of its `_base_` files."""
    digest = hashlib.sha256()
    for tree in _config_trees(path, ()):
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def _config_trees(path: Path, above: tuple[Path, ...]) -> list[ast.Module]:
    path = Path(os.path.realpath(path))
    if path in above:
        raise UserError(f"{path}: _base_ leads back to the file itself")
    try:
        tree = ast.parse(read_text(path, f"a Python config, which {above[-1] if above else 'a setting'} names"))
        named = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "_base_" for t in node.targets)
        ]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise UserError(f"{path}: is not a valid Python config: {shortened(error)}") from None
    trees = [tree]
    for bases in named:
        for base in [bases] if isinstance(bases, str) else bases:
            if not isinstance(base, str):
                raise UserError(f"{path}: _base_ holds a {type(base).__name__}, expected the names of files")
            trees += _config_trees(path.parent / base, (*above, path))
    return trees


def _memo_path() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "goodsam-offline" / "digests.json"


def _memo() -> dict[str, str]:
    """The digests that are remembered; none if the file cannot be read."""
    try:
        with open_file(_memo_path()) as stream:
            memo = json.loads(stream.read(MAX_TEXT))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(memo, dict) or not all(isinstance(value, str) for value in memo.values()):
        return {}
    return memo


def _remembered_digest(path: Path) -> str:
    stat = path.stat()
    name = f"{os.path.realpath(path)}:{stat.st_size}:{stat.st_mtime_ns}"
    memo = _memo()
    if name not in memo:
        memo[name] = file_digest(path)
        entries = dict(list(memo.items())[-_MEMO_ENTRIES:])
        try:
            with whole_file(_memo_path()) as temporary:
                temporary.write_text(json.dumps(entries))
        except OSError:
            pass  # a read-only home only means that the file is hashed again next time
    return memo[name]
