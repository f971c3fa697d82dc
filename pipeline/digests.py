"""What a file says, as a short text: settings that name files enter the keys by content, never by path."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import tempfile
from pathlib import Path

from pipeline.errors import UserError

_MEMO_ENTRIES = 1000


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def content_digest(path: Path) -> str:
    """SHA-256 of a file's bytes; of a Python config, of its code and of every ``_base_`` (layout does not count).

    Large files are hashed once: the digest is remembered with path, size and modification time in the user's
    cache directory. Raises :class:`UserError` if the file is missing or is no valid Python.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; a setting names it and its content is part of the key")
    if path.suffix == ".py":
        return python_config_digest(path)
    return _remembered_digest(path)


def python_config_digest(path: Path) -> str:
    """SHA-256 over the syntax tree of a Python config file and, in order, those of its ``_base_`` files."""
    digest = hashlib.sha256()
    for tree in _config_trees(path, ()):
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()


def _config_trees(path: Path, above: tuple[Path, ...]) -> list[ast.Module]:
    path = path.resolve()
    if path in above:
        raise UserError(f"{path}: _base_ leads back to the file itself")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {above[-1] if above else 'a setting'} names it") from None
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not a valid Python config: {error}") from None
    trees = [tree]
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "_base_" for t in node.targets):
            bases = ast.literal_eval(node.value)
            for base in [bases] if isinstance(bases, str) else bases:
                trees += _config_trees(path.parent / base, (*above, path))
    return trees


def _memo_path() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "goodsam-offline" / "digests.json"


def _remembered_digest(path: Path) -> str:
    stat = path.stat()
    name = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    try:
        memo: dict[str, str] = json.loads(_memo_path().read_text())
    except (OSError, ValueError):
        memo = {}
    if name not in memo:
        memo[name] = file_digest(path)
        entries = dict(list(memo.items())[-_MEMO_ENTRIES:])
        try:
            _memo_path().parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=_memo_path().parent, delete=False) as stream:
                json.dump(entries, stream)
            os.replace(stream.name, _memo_path())
        except OSError:
            pass  # a read-only home only means that the file is hashed again next time
    return memo[name]
