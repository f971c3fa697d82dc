"""Files that a stage writes for the user: into folders that can be written, each whole or not at all."""

from __future__ import annotations

import errno
import fcntl
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
            f"{option} {folder}: cannot be written ({error.strerror}); expected a writable folder"
        ) from None
    return folder


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Holds ``folder`` for this process alone; a lock of a process that ended, or was killed, is none.

    Raises :class:`UserError` if another process holds it. File systems without locks are not guarded.
    """
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: {what}; wait for it, or stop it") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
                raise
        yield


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write what is to become ``path`` at the end of the context; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    yield temporary
    os.replace(temporary, path)
