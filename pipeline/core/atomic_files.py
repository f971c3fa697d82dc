"""Atomic writes of result files and locks of result folders.

A file appears complete or not at all. Temporary files are new and their names cannot be guessed, so nothing is written
through a link that somebody planted.
"""

from __future__ import annotations

import errno
import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from multiprocessing.util import register_after_fork
from pathlib import Path
from typing import BinaryIO

from pipeline.core.errors import ImageError, UserError


def make_writable_folder(folder: Path, option: str) -> Path:
    """Creates `folder` if it is missing and returns it. Raises `UserError`, naming `option`, if it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / temporary_name()
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        reason = f"cannot be written ({error.strerror})"
        raise UserError(f"{option} {folder}: {reason}; expected a writable folder") from None
    return folder


@contextmanager
def lock_folder(folder: Path, conflict: str) -> Iterator[None]:
    """Holds an exclusive lock on `folder`, which ends with the process. File systems without locks are not guarded.

    Raises `UserError` if another process has it (the message contains `conflict`), or `.lock` is no ordinary file.
    """
    lock = folder / ".lock"
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise UserError(f"{lock}: is no ordinary file; remove it") from None
    with os.fdopen(descriptor, "w") as file:
        register_after_fork(file, TextIOWrapper.close)  # a forked process would keep the lock
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: {conflict}; wait for it, or stop it") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
                raise
        yield


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields an empty temporary file in the folder of `path`; it replaces `path` when the context ends.

    The folder is created. The content is flushed to the disk before the file takes the place of `path` (or of a link
    there). After an exception the temporary file is removed and `path` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_file(path) as temporary:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """Yields a new, empty file in the folder of `path`; it is removed at the end unless it was moved away."""
    temporary = path.with_name(temporary_name())
    temporary.touch(exist_ok=False)
    try:
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_name() -> str:
    """Returns a new name for a temporary file, which nobody can guess."""
    return f".{uuid.uuid4().hex}.tmp"


def sync(path: Path) -> None:
    """Flushes a file's content, or a folder's entries, to the disk. File systems that cannot are left alone."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # network file systems refuse some calls
            raise
    finally:
        os.close(descriptor)


def write_result(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes the result of one image atomically, by `write(stream)`. Raises `ImageError` if the name is too long."""
    try:
        with atomic_write(path) as temporary, temporary.open("wb") as stream:
            write(stream)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise ImageError(f"{path}: the name is too long for the file system; expected a shorter one") from None


def write_text(path: Path, text: str) -> None:
    """Writes `text` in UTF-8 atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
