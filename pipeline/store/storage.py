"""Files of the cache, on the local disk or any fsspec file system; the only module that knows which.

It offers what a commit needs: a file appears whole or not at all, and what was flushed is on the disk.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.errors import UserError


class Storage(ABC):
    """A folder of files; paths are relative, with ``/``."""

    url: str

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The file's bytes. Raises ``FileNotFoundError``."""

    @abstractmethod
    def read_folder(self, path: str) -> dict[str, bytes]:
        """Name and bytes of every file directly in a folder; empty if there is no folder."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Writes a whole new file; False (and no change) if there already is one, where the system can tell."""

    @abstractmethod
    def replace(self, path: str, data: bytes) -> None:
        """Writes a whole file in place of any other."""

    @abstractmethod
    def sizes(self, path: str) -> dict[str, int]:
        """Every file below a folder, at any depth: path relative to the folder, size in bytes."""

    @abstractmethod
    def folders(self, path: str) -> list[str]:
        """Names of the folders directly in a folder, sorted."""

    @abstractmethod
    def age(self, path: str) -> float:
        """Seconds since the newest file below ``path`` changed."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Removes a file or a folder with all below it; what is not there is no error."""

    @abstractmethod
    def flush(self, path: str) -> None:
        """Returns when every file below the folder is on the disk."""

    @abstractmethod
    def zarr_store(self, path: str) -> Any:
        """The folder as a zarr store."""

    @abstractmethod
    def check_writable(self) -> None:
        """Raises :class:`UserError` if nothing can be written here."""


class LocalStorage(Storage):
    """A folder of the local (or a network) file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def read_folder(self, path: str) -> dict[str, bytes]:
        result: dict[str, bytes] = {}
        try:
            entries = list(os.scandir(self.root / path))
        except FileNotFoundError:
            return result
        for entry in entries:
            if entry.name.endswith(".json"):
                try:
                    result[entry.name] = Path(entry.path).read_bytes()
                except FileNotFoundError:  # replaced or removed by another process in this moment
                    continue
        return result

    def create(self, path: str, data: bytes) -> bool:
        temporary = self._write_temporary(path, data)
        try:
            os.link(temporary, self.root / path)
        except FileExistsError:
            return False
        except OSError as error:  # file systems without hard links: the last writer wins, both wrote the same
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK):
                raise
            os.replace(temporary, self.root / path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(self.root / path, folder=True)
        return True

    def replace(self, path: str, data: bytes) -> None:
        os.replace(self._write_temporary(path, data), self.root / path)
        _sync(self.root / path, folder=True)

    def _write_temporary(self, path: str, data: bytes) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{uuid.uuid4().hex}.tmp"
        try:
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def sizes(self, path: str) -> dict[str, int]:
        root = str(self.root / path)
        result: dict[str, int] = {}
        pending = [root]
        while pending:
            try:
                entries = list(os.scandir(pending.pop()))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    result[os.path.relpath(entry.path, root).replace(os.sep, "/")] = entry.stat().st_size
        return result

    def folders(self, path: str) -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self.root / path) if entry.is_dir())
        except FileNotFoundError:
            return []

    def age(self, path: str) -> float:
        import time

        folder = self.root / path
        times = [p.stat().st_mtime for p in (folder, *folder.rglob("*")) if p.exists()]
        return time.time() - max(times) if times else float("inf")

    def delete(self, path: str) -> None:
        target = self.root / path
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)

    def flush(self, path: str) -> None:
        folder = self.root / path
        for current, _, files in os.walk(folder):
            for name in files:
                _sync(Path(current) / name)
            _sync(Path(current) / ".", folder=True)
        _sync(folder, folder=True)

    def zarr_store(self, path: str) -> Any:
        from zarr.storage import LocalStore

        return LocalStore(self.root / path)

    def check_writable(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".{uuid.uuid4().hex}.tmp"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"cache {self.root}: cannot be written ({error.strerror}); expected a writable folder"
            ) from None


def _sync(path: Path, folder: bool = False) -> None:
    """fsync of a file, or with ``folder`` of the folder that holds it."""
    descriptor = os.open(path.parent if folder else path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems refuse to sync folders
        if not folder or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


class RemoteStorage(Storage):
    """Any fsspec file system. An object appears whole when its upload ends; there is nothing to flush."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        try:
            self.fs, self.root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise UserError(f"cache {url}: {error}; expected a folder or a URL that fsspec can open") from None

    def _path(self, path: str) -> str:
        return f"{self.root.rstrip('/')}/{path}".rstrip("/")

    def read(self, path: str) -> bytes:
        return self.fs.cat_file(self._path(path))

    def read_folder(self, path: str) -> dict[str, bytes]:
        paths = [name for name in self._listing(path) if name.endswith(".json")]
        return {name.rsplit("/", 1)[1]: data for name, data in self.fs.cat(paths).items()} if paths else {}

    def _listing(self, path: str) -> Iterable[str]:
        self.fs.invalidate_cache()
        try:
            return self.fs.ls(self._path(path), detail=False)
        except FileNotFoundError:
            return []

    def create(self, path: str, data: bytes) -> bool:
        if self.fs.exists(self._path(path)):
            return False
        self.replace(path, data)
        return True

    def replace(self, path: str, data: bytes) -> None:
        self.fs.makedirs(self._path(path).rsplit("/", 1)[0], exist_ok=True)
        self.fs.pipe_file(self._path(path), data)

    def sizes(self, path: str) -> dict[str, int]:
        self.fs.invalidate_cache()
        root = self._path(path)
        found = self.fs.find(root, detail=True)
        return {self._relative(name, root): int(info["size"]) for name, info in found.items()}

    def _relative(self, name: str, root: str) -> str:
        return name.lstrip("/")[len(root.lstrip("/")) + 1 :]

    def folders(self, path: str) -> list[str]:
        self.fs.invalidate_cache()
        try:
            entries = self.fs.ls(self._path(path), detail=True)
        except FileNotFoundError:
            return []
        return sorted(e["name"].rstrip("/").rsplit("/", 1)[1] for e in entries if e["type"] == "directory")

    def age(self, path: str) -> float:
        import datetime

        now = datetime.datetime.now(datetime.UTC)
        times = [self.fs.modified(name) for name in self.fs.find(self._path(path))]
        times = [t if t.tzinfo else t.replace(tzinfo=datetime.UTC) for t in times]
        return (now - max(times)).total_seconds() if times else float("inf")

    def delete(self, path: str) -> None:
        try:
            self.fs.rm(self._path(path), recursive=True)
        except FileNotFoundError:
            return

    def flush(self, path: str) -> None:
        return

    def zarr_store(self, path: str) -> Any:
        from zarr.storage import FsspecStore

        return FsspecStore.from_url(f"{self.url.rstrip('/')}/{path}")

    def check_writable(self) -> None:
        import uuid as _uuid

        probe = f".{_uuid.uuid4().hex}.tmp"
        try:
            self.replace(probe, b"")
            self.delete(probe)
        except Exception as error:  # every file system raises its own kinds
            raise UserError(f"cache {self.url}: cannot be written ({error})") from None


def open_storage(url: str) -> Storage:
    """The storage at ``url``: a path, ``file://...``, or any URL that fsspec knows."""
    if "://" not in url:
        return LocalStorage(Path(url).expanduser())
    if url.startswith("file://"):
        return LocalStorage(Path(url.removeprefix("file://")))
    return RemoteStorage(url)
