"""The cache in a folder of the local file system, or of a mounted network file system."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path

from pipeline.cache.storage import Entry, Storage
from pipeline.core.atomic_files import make_writable_folder, sync, temporary_file, temporary_name
from pipeline.core.errors import UserError

#: Errors of file systems without hard links (FAT, SMB, many FUSE ones).
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)

#: Attempts at a write whose temporary file another process removes.
_WRITE_ATTEMPTS = 3

_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW


class LocalStorage(Storage):
    """A folder; files are written under temporary names, flushed to the disk and moved into place.

    A disk that is full or broken affects every image: it raises `UserError`, which ends the run.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def read(self, path: str) -> bytes:
        data = _read_file(f"{self.url}/{path}")
        if data is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self.url}/{path}")
        return data

    def read_many(self, paths: Iterable[str]) -> Iterator[bytes | None]:
        root = self.url
        return (_read_file_or_empty(f"{root}/{path}") for path in paths)

    def create(self, path: str, data: bytes) -> bool:
        return self._write(path, data, _link)

    def replace(self, path: str, data: bytes) -> None:
        self._write(path, data, _rename)

    def _write(self, path: str, data: bytes, move: Callable[[Path, Path], bool]) -> bool:
        """Writes a temporary file and moves it to `path`; returns the result of `move`."""
        try:
            for _ in range(_WRITE_ATTEMPTS - 1):
                with suppress(FileNotFoundError):  # gc removed the temporary file: the clock jumped, or --older-than 0
                    return self._write_once(self.root / path, data, move)
            return self._write_once(self.root / path, data, move)
        except FileNotFoundError:
            raise
        except OSError as error:
            reason = f"cannot be written ({error.strerror})"
            raise UserError(f"cache {self.root}: {reason}; nothing finished is lost") from None

    def _write_once(self, target: Path, data: bytes, move: Callable[[Path, Path], bool]) -> bool:
        if not target.parent.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            for folder in target.parents:  # each may hold a new entry
                sync(folder)
                if folder == self.root:
                    break
        with temporary_file(target) as temporary:
            temporary.write_bytes(data)
            sync(temporary)
            if not move(temporary, target):
                return False
            sync(target.parent)
        return True

    def exists(self, path: str) -> bool:
        return os.path.isfile(f"{self.url}/{path}")

    def is_link(self, path: str) -> bool:
        return os.path.islink(f"{self.url}/{path}")

    def links(self, path: str) -> list[str]:
        try:
            with os.scandir(self.root / path) as entries:
                return sorted(entry.name for entry in entries if entry.is_symlink())
        except OSError:
            return []

    def has_folder(self, path: str) -> bool:
        return not self.is_link(path) and os.path.isdir(f"{self.url}/{path}")

    def move_to_temporary(self, path: str) -> str:
        temporary = f"{path.rpartition('/')[0]}/{temporary_name()}"
        with suppress(OSError):
            os.rename(self.root / path, self.root / temporary)
        return temporary

    def restore(self, temporary: str, path: str) -> None:
        with suppress(OSError):
            os.link(self.root / temporary, self.root / path)  # unlike a rename, it replaces no newer file
            os.unlink(self.root / temporary)
            return
        if not os.path.lexists(self.root / path):
            with suppress(OSError):
                os.rename(self.root / temporary, self.root / path)
        self.delete(temporary)

    def entries(self, path: str) -> Iterator[Entry]:
        folder = self.root / path
        try:
            if path and folder.is_symlink():
                return
            with os.scandir(folder) as entries:
                for entry in entries:
                    is_folder = entry.is_dir(follow_symlinks=False)
                    if is_folder or entry.is_file(follow_symlinks=False):
                        yield Entry(entry.name, is_folder)
        except (FileNotFoundError, NotADirectoryError):
            return

    def sizes(self, path: str) -> dict[str, int]:
        top = f"{self.url}/{path}"
        sizes: dict[str, int] = {}
        for folder, _, files in os.walk(top) if not os.path.islink(top) else ():  # follows no links
            for place in (os.path.join(folder, name) for name in files):
                with suppress(OSError):  # another process removed it
                    status = os.lstat(place)
                    if stat.S_ISREG(status.st_mode):
                        sizes[os.path.relpath(place, top)] = status.st_size
        return sizes

    def size(self, path: str) -> int:
        with suppress(OSError):
            status = os.lstat(self.root / path)
            return status.st_size if stat.S_ISREG(status.st_mode) else super().size(path)
        return 0

    def seconds_since_change(self, path: str) -> float:
        newest = _change_time(self.root / path)
        for folder, _, files in os.walk(self.root / path):  # follows no links
            for place in (folder, *(os.path.join(folder, name) for name in files)):
                newest = max(newest, _change_time(place))
        return time.time() - newest

    def seconds_since_write(self, path: str) -> float:
        try:
            return time.time() - os.lstat(self.root / path).st_mtime
        except OSError:
            return float("inf")

    def delete(self, path: str) -> None:
        target = self.root / path
        if not os.path.lexists(target):
            return
        if os.path.realpath(target.parent) != os.path.join(os.path.realpath(self.root), *path.split("/")[:-1]):
            raise UserError(f"{target}: is reached through a link in the cache {self.root}; nothing is removed there")
        try:
            if target.is_symlink() or not target.is_dir():
                target.unlink(missing_ok=True)
            else:
                shutil.rmtree(target, ignore_errors=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise UserError(f"{target}: cannot be removed ({error.strerror})") from None

    def check_writable(self) -> None:
        make_writable_folder(self.root, "cache")


def _rename(temporary: Path, target: Path) -> bool:
    os.replace(temporary, target)
    return True


def _link(temporary: Path, target: Path) -> bool:
    """Links `target` to a temporary file; returns `False` if another file is there."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        # NFS may lose the answer to a link; the repeated request then finds the link that the first one made
        return temporary.stat().st_nlink > 1
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if target.exists():
            return False
        os.replace(temporary, target)  # two writers may race here; both write the same marker
    return True


def _read_file_or_empty(path: str) -> bytes | None:
    try:
        return _read_file(path)
    except OSError:  # a bad sector
        return b""


def _read_file(path: str) -> bytes | None:
    """Returns the bytes of a regular file; `None` for a missing file and for a link."""
    try:
        descriptor = os.open(path, _READ_FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        data = os.read(descriptor, status.st_size + 1)
        if len(data) == status.st_size:
            return data
        return data + FileIO(descriptor, closefd=False).readall()  # a very large file, or one that grows
    finally:
        os.close(descriptor)


def _change_time(path: str | Path) -> float:
    """Returns when a file was last written or renamed, in seconds; minus infinity for a missing one."""
    try:
        status = os.lstat(path)
        return max(status.st_mtime, status.st_ctime)  # a copy may keep the first
    except OSError:
        return float("-inf")
