"""Files that a stage writes for the user: into folders that can be written, each whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import UserError


def writable_folder(folder: Path, option: str) -> Path:
    """``folder``, made if it is not there. Raises :class:`UserError`, naming ``option``, if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{uuid.uuid4().hex}.tmp"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{option} {folder}: cannot be written ({error.strerror}); expected a folder that can"
        ) from None
    return folder


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write what is to become ``path`` at the end of the context; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    yield temporary
    os.replace(temporary, path)
