"""Files that a stage writes for the user: into folders that can be written, each whole or not at all.

No file is written through a link: names of temporary files cannot be guessed, and they are new.
"""

from __future__ import annotations

import errno
import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipeline.core.errors import ImageError, UserError


def writable_folder(folder: Path, option: str) -> Path:
    """`folder`, made if it is not there. Raises `UserError`, naming `option`, if it cannot be written."""
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
    """Holds `folder` for this process alone; a lock of a process that ended, or was killed, is none.

    Raises `UserError` if another process holds it. File systems without locks are not guarded.
    """
    lock = folder / ".lock"
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise UserError(f"{lock}: is no ordinary file; expected to make it, remove what is there") from None
    with os.fdopen(descriptor, "w") as file:
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
    """Where to write what is to become `path` at the end of the context; its folder is made.

    The file is there already, empty: a new one, under a name of its own in the same folder. At the end its content is
    on the disk before it takes the place of `path`, or of a link there; after an exception it is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
    try:
        yield temporary
        with temporary.open("rb") as stream:
            _flush(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _flush(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system without it
            raise


def write_result(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """The result of one image, by `write`, as `whole_file`. Raises `ImageError` for a name too long."""
    try:
        with whole_file(path) as temporary, temporary.open("wb") as stream:
            write(stream)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise ImageError(f"{path}: the name is too long for the file system; expected a shorter one") from None


def write_text(path: Path, text: str) -> None:
    """A text in UTF-8, as `whole_file`."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
