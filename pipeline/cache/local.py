"""The cache in a folder of the local (or a network) file system.

Files are written under temporary names, flushed to the disk and put in their place. No link below is followed.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.cache.storage import Entry, Storage
from pipeline.core.atomic_files import writable_folder
from pipeline.core.errors import UserError

#: What file systems without hard links (FAT, SMB, many FUSE ones) answer.
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)

#: How often a write is tried whose temporary file another process swept.
_WRITE_TRIES = 3

_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW


class LocalStorage(Storage):
    """A folder of the local (or a network) file system."""

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
        return (_read_or_nothing(f"{root}/{path}") for path in paths)

    def create(self, path: str, data: bytes) -> bool:
        return self._write(path, data, self._link)

    def replace(self, path: str, data: bytes) -> None:
        self._write(path, data, self._rename)

    def _write(self, path: str, data: bytes, put: Callable[[Path, Path], bool]) -> bool:
        """Writes `data` to a temporary file, and has it `put` in its place."""
        for _ in range(_WRITE_TRIES - 1):
            try:
                return self._write_once(path, data, put)
            except FileNotFoundError:  # the temporary file was swept: a clock that jumped, or gc --older-than 0
                continue
        return self._write_once(path, data, put)

    def _write_once(self, path: str, data: bytes, put: Callable[[Path, Path], bool]) -> bool:
        with self._temporary(path, data) as temporary:
            if not put(temporary, self.root / path):
                return False
            _sync(self.root / path, folder=True)
        return True

    @staticmethod
    def _rename(temporary: Path, target: Path) -> bool:
        os.replace(temporary, target)
        return True

    @staticmethod
    def _link(temporary: Path, target: Path) -> bool:
        """False if there is a file at `target`."""
        try:
            os.link(temporary, target)
        except FileExistsError:
            # over NFS the answer to a link may get lost; asked again, the server finds the link that it made
            return temporary.stat().st_nlink > 1
        except OSError as error:  # file systems without hard links: the last writer wins, both wrote the same
            if error.errno not in _NO_HARD_LINKS:
                raise
            if target.exists():
                return False
            os.replace(temporary, target)
        return True

    @contextmanager
    def _temporary(self, path: str, data: bytes) -> Iterator[Path]:
        """A file beside `path` with `data`, on the disk; it is removed at the end.

        A full or broken disk is no matter of one image: it ends the run, in one sentence.
        """
        target = self.root / path
        temporary = target.parent / f".{uuid.uuid4().hex}.tmp"
        try:
            if not target.parent.is_dir():
                target.parent.mkdir(parents=True, exist_ok=True)
                self._sync_parents(target)
            with temporary.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            yield temporary
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UserError(
                f"cache {self.root}: cannot be written ({error.strerror}); nothing finished is lost"
            ) from None
        finally:
            with _passing_over_errors():
                temporary.unlink(missing_ok=True)

    def _sync_parents(self, path: Path) -> None:
        """fsync of every folder from the one that holds `path` up to the cache's own: their entries may be new."""
        while path != self.root:
            _sync(path, folder=True)
            path = path.parent

    def exists(self, path: str) -> bool:
        return os.path.isfile(f"{self.url}/{path}")

    def is_link(self, path: str) -> bool:
        return os.path.islink(f"{self.url}/{path}")

    def links(self, path: str) -> list[str]:
        try:
            with os.scandir(self.root / path) as found:
                return sorted(entry.name for entry in found if entry.is_symlink())
        except OSError:
            return []

    def has_folder(self, path: str) -> bool:
        return not self.is_link(path) and os.path.isdir(f"{self.url}/{path}")

    def set_aside(self, path: str) -> str:
        folder, _, _ = path.rpartition("/")
        aside = f"{folder}/.{uuid.uuid4().hex}.tmp"
        with _passing_over_errors():
            os.rename(self.root / path, self.root / aside)
        return aside

    def put_back(self, aside: str, path: str) -> None:
        with _passing_over_errors():
            os.link(self.root / aside, self.root / path)  # unlike a rename, it takes no new file's place
            os.unlink(self.root / aside)
            return
        if not os.path.lexists(self.root / path):
            with _passing_over_errors():
                os.rename(self.root / aside, self.root / path)
        self.delete(aside)

    def entries(self, path: str) -> Iterator[Entry]:
        folder = self.root / path
        try:
            if path and folder.is_symlink():
                return
            with os.scandir(folder) as found:
                for entry in found:
                    if entry.is_dir(follow_symlinks=False):
                        yield Entry(entry.name, True)
                    elif entry.is_file(follow_symlinks=False):
                        yield Entry(entry.name, False)
        except (FileNotFoundError, NotADirectoryError):
            return

    def sizes(self, path: str) -> dict[str, int]:
        result: dict[str, int] = {}
        pending = [""]
        while pending:
            folder = pending.pop()
            for entry in self.entries(f"{path}/{folder}".rstrip("/")):
                name = f"{folder}/{entry.name}".lstrip("/")
                if entry.is_folder:
                    pending.append(name)
                else:
                    with _passing_over_errors():  # it may be gone by now
                        result[name] = os.lstat(f"{self.url}/{path}/{name}").st_size
        return result

    def size(self, path: str) -> int:
        try:
            found = os.lstat(self.root / path)
        except OSError:
            return 0
        return found.st_size if stat.S_ISREG(found.st_mode) else sum(self.sizes(path).values())

    def age(self, path: str) -> float:
        newest = _modified(self.root / path)
        for current, _, files in os.walk(self.root / path):  # follows no links
            for place in (current, *(os.path.join(current, name) for name in files)):
                newest = max(newest, _modified(place))
        return time.time() - newest

    def written_ago(self, path: str) -> float:
        try:
            return time.time() - os.lstat(self.root / path).st_mtime
        except OSError:
            return float("inf")

    def delete(self, path: str) -> None:
        target = self.root / path
        if not os.path.lexists(target):
            return
        if os.path.realpath(target.parent) != os.path.join(os.path.realpath(self.root), *path.split("/")[:-1]):
            raise UserError(f"{target}: lies behind a link in the cache {self.root}; nothing is removed there")
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
        writable_folder(self.root, "cache")


def _read_or_nothing(path: str) -> bytes | None:
    try:
        return _read_file(path)
    except OSError:  # a bad sector
        return b""


def _read_file(path: str) -> bytes | None:
    """The bytes of a regular file; None if there is none, or a link in its place."""
    try:
        descriptor = os.open(path, _READ_FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return None
        data = os.read(descriptor, found.st_size + 1)
        if len(data) == found.st_size:
            return data
        parts = [data]  # a very large file, or one that grows
        while part := os.read(descriptor, 1 << 24):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


@contextmanager
def _passing_over_errors() -> Iterator[None]:
    try:
        yield
    except OSError:
        return


def _modified(path: str | Path) -> float:
    """When it was last written or renamed, in seconds; minus infinity for what is gone. A copy may keep the first."""
    try:
        found = os.lstat(path)
        return max(found.st_mtime, found.st_ctime)
    except OSError:
        return float("-inf")


def _sync(path: Path, folder: bool = False) -> None:
    """fsync of a file, or with `folder` of the folder that holds it."""
    descriptor = os.open(path.parent if folder else path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems refuse to sync folders
        if not folder or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
