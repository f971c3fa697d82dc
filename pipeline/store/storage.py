"""Files of the cache, on the local disk or any fsspec file system; the only module that knows which.

It offers what a commit needs: a file appears whole or not at all, and what was flushed is on the disk.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.outputs import writable_folder

#: What file systems without hard links (FAT, SMB, many FUSE ones) answer.
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)


class Storage(ABC):
    """A folder of files; paths are relative, with ``/``."""

    url: str

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The file's bytes. Raises ``FileNotFoundError``."""

    @abstractmethod
    def read_all(self, paths: Sequence[str]) -> list[bytes]:
        """The bytes of several files, in order. Raises ``FileNotFoundError``."""

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

    def sizes_of(self, path: str, names: Iterable[str]) -> dict[str, int]:
        """As :meth:`sizes`, of these files alone; what is not there is left out."""
        sizes = self.sizes(path)
        return {name: sizes[name] for name in names if name in sizes}

    @abstractmethod
    def folders(self, path: str) -> list[str]:
        """Names of the folders directly in a folder, sorted."""

    @abstractmethod
    def temporaries(self, path: str) -> list[str]:
        """Paths of the files directly in a folder that writers which were killed left behind."""

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

    def read_all(self, paths: Sequence[str]) -> list[bytes]:
        return [self.read(path) for path in paths]

    def read_folder(self, path: str) -> dict[str, bytes]:
        result: dict[str, bytes] = {}
        try:
            entries = list(os.scandir(self.root / path))
        except FileNotFoundError:
            return result
        for entry in entries:
            if entry.name.endswith(".json"):
                try:
                    with open(entry.path, "rb") as stream:
                        result[entry.name] = stream.read()
                except FileNotFoundError:  # replaced or removed by another process in this moment
                    continue
        return result

    def create(self, path: str, data: bytes) -> bool:
        with self._writing():
            temporary = self._write_temporary(path, data)
            try:
                os.link(temporary, self.root / path)
            except FileExistsError:
                # over NFS the answer to a link may get lost; asked again, the server finds the link that it made
                if temporary.stat().st_nlink < 2:
                    return False
            except OSError as error:  # file systems without hard links: the last writer wins, both wrote the same
                if error.errno not in _NO_HARD_LINKS:
                    raise
                if (self.root / path).exists():
                    return False
                os.replace(temporary, self.root / path)
            finally:
                temporary.unlink(missing_ok=True)
            _sync(self.root / path, folder=True)
        return True

    def replace(self, path: str, data: bytes) -> None:
        with self._writing():
            os.replace(self._write_temporary(path, data), self.root / path)
            _sync(self.root / path, folder=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A full or broken disk is no matter of one image: it ends the run, in one sentence."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UserError(
                f"cache {self.root}: cannot be written ({error.strerror}); nothing finished is lost"
            ) from None

    def _write_temporary(self, path: str, data: bytes) -> Path:
        target = self.root / path
        if not target.parent.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            self._sync_parents(target)
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

    def sizes_of(self, path: str, names: Iterable[str]) -> dict[str, int]:
        folder = str(self.root / path)
        result: dict[str, int] = {}
        for name in names:
            try:
                result[name] = os.stat(f"{folder}/{name}").st_size
            except (FileNotFoundError, NotADirectoryError):
                continue
        return result

    def folders(self, path: str) -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self.root / path) if entry.is_dir())
        except FileNotFoundError:
            return []

    def temporaries(self, path: str) -> list[str]:
        try:
            names = [entry.name for entry in os.scandir(self.root / path)]
        except FileNotFoundError:
            return []
        prefix = f"{path}/" if path else ""
        return sorted(f"{prefix}{name}" for name in names if name.startswith(".") and name.endswith(".tmp"))

    def age(self, path: str) -> float:
        newest = float("-inf")
        for current, _, files in os.walk(self.root / path):
            for place in (current, *(os.path.join(current, name) for name in files)):
                newest = max(newest, _modified(place))
        return time.time() - max(newest, _modified(self.root / path))

    def delete(self, path: str) -> None:
        target = self.root / path
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)

    def flush(self, path: str) -> None:
        folder = self.root / path
        with self._writing():
            for current, _, files in os.walk(folder):
                for name in files:
                    _sync(Path(current) / name)
                _sync(Path(current) / ".", folder=True)
            self._sync_parents(folder)

    def _sync_parents(self, path: Path) -> None:
        """fsync of every folder from the one that holds ``path`` up to the cache's own: their entries may be new."""
        while path != self.root:
            _sync(path, folder=True)
            path = path.parent

    def zarr_store(self, path: str) -> Any:
        from pipeline.store.zarr_local import UnsharedLocalStore

        return UnsharedLocalStore(self.root / path)

    def check_writable(self) -> None:
        writable_folder(self.root, "cache")


def _modified(path: str | Path) -> float:
    """Modification time in seconds; minus infinity for what is gone."""
    try:
        return os.lstat(path).st_mtime
    except FileNotFoundError:
        return float("-inf")


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

    def read_all(self, paths: Sequence[str]) -> list[bytes]:
        if not paths:
            return []
        # at once, where the file system can
        found = {name.lstrip("/"): data for name, data in self.fs.cat([self._path(path) for path in paths]).items()}
        return [found[self._path(path).lstrip("/")] for path in paths]

    def read_folder(self, path: str) -> dict[str, bytes]:
        paths = [name for name in self._listing(path) if name.endswith(".json")]
        if not paths:
            return {}
        # what another process removed since the listing is left out
        return {name.rsplit("/", 1)[1]: data for name, data in self.fs.cat(paths, on_error="omit").items()}

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

    def temporaries(self, path: str) -> list[str]:
        return []

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
        probe = f".{uuid.uuid4().hex}.tmp"
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
