"""The cache on an object store, or on any other file system that fsspec knows."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

from pipeline.cache.storage import Entry, Storage
from pipeline.core.errors import UserError

#: Files that are asked for at once.
_BATCH = 256

#: File systems of fsspec that have no folders. To make one would make the bucket.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci"}


_ARCHIVES = ("zip:", "tar:", "libarchive:")


class RemoteStorage(Storage):
    """Any fsspec file system. An object appears whole when its upload ends.

    Every file system raises its own errors. A missing file is a `FileNotFoundError`; every other error is no matter
    of one image, and becomes a `UserError` that ends the run. A file system repeats by itself what is worth it.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        if url.startswith(_ARCHIVES):
            raise UserError(f"cache {url}: an archive cannot be written file by file; expected it unpacked")
        try:
            # s3fs asks for the size of every file first, to read large ones in parts at once; ours are small
            options = {"max_concurrency": 1} if url.startswith(("s3:", "s3a:")) else {}
            self.fs, self.root = fsspec.core.url_to_fs(url, **options)
        except Exception as error:  # every file system raises its own kinds
            raise UserError(f"cache {url}: {_reason(error)}; expected a folder or a URL that fsspec can open") from None
        protocols = {self.fs.protocol} if isinstance(self.fs.protocol, str) else set(self.fs.protocol)
        self._has_folders = not protocols & _OBJECT_STORES

    def _path(self, path: str) -> str:
        return f"{self.root.rstrip('/')}/{path}".rstrip("/")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Lets a missing file pass; raises `UserError` for every other error of the file system."""
        try:
            yield
        except (FileNotFoundError, UserError):
            raise
        except Exception as error:
            raise UserError(f"cache {self.url}: {_reason(error)}; nothing finished is lost") from None

    def read(self, path: str) -> bytes:
        with self._errors():
            data: bytes = self.fs.cat_file(self._path(path))
            return data

    def read_many(self, paths: Iterable[str]) -> Iterator[bytes | None]:
        waiting = iter(paths)
        while batch := list(islice(waiting, _BATCH)):
            full = [self._path(path) for path in batch]
            with self._errors():
                found = {name.lstrip("/"): data for name, data in self.fs.cat(full, on_error="return").items()}
            for name in full:
                data = found.get(name.lstrip("/"))
                if isinstance(data, Exception) and not isinstance(data, FileNotFoundError):
                    with self._errors():
                        raise data
                yield data if isinstance(data, bytes) else None

    def create(self, path: str, data: bytes) -> bool:
        if self.exists(path):
            return False
        self.replace(path, data)
        return True

    def replace(self, path: str, data: bytes) -> None:
        try:
            with self._errors():
                if self._has_folders:
                    self.fs.makedirs(self._path(path).rsplit("/", 1)[0], exist_ok=True)
                self.fs.pipe_file(self._path(path), data)
        except FileNotFoundError as error:  # no bucket
            raise UserError(f"cache {self.url}: cannot be written ({_reason(error)})") from None

    def exists(self, path: str) -> bool:
        self.fs.invalidate_cache()
        try:
            with self._errors():
                return bool(self.fs.info(self._path(path))["type"] == "file")  # `isfile` takes every error for a no
        except FileNotFoundError:
            return False

    def entries(self, path: str) -> Iterator[Entry]:
        self.fs.invalidate_cache()
        try:
            with self._errors():
                found = self.fs.ls(self._path(path), detail=True)
        except FileNotFoundError:
            return
        folder = self._path(path).lstrip("/")
        for info in found:
            name = info["name"].rstrip("/").lstrip("/")
            if name != folder:  # an object store may list the folder's own placeholder
                yield Entry(name.rsplit("/", 1)[-1], info["type"] == "directory")

    def sizes(self, path: str) -> dict[str, int]:
        self.fs.invalidate_cache()
        root = self._path(path)
        try:
            with self._errors():
                found = self.fs.find(root, detail=True)
        except FileNotFoundError:
            return {}
        return {name.lstrip("/")[len(root.lstrip("/")) + 1 :]: int(info["size"]) for name, info in found.items()}

    def age(self, path: str) -> float:
        import datetime

        now = datetime.datetime.now(datetime.UTC)
        try:
            with self._errors():
                times = [self.fs.modified(name) for name in self.fs.find(self._path(path))]
        except FileNotFoundError:  # another process removed it
            return 0.0
        times = [t if t.tzinfo else t.replace(tzinfo=datetime.UTC) for t in times]
        return (now - max(times)).total_seconds() if times else float("inf")

    def delete(self, path: str) -> None:
        try:
            with self._errors():
                self.fs.rm(self._path(path), recursive=True)
        except FileNotFoundError:
            return

    def delete_file(self, path: str) -> None:
        try:
            with self._errors():
                self.fs.rm_file(self._path(path))
        except FileNotFoundError:
            return

    def check_writable(self) -> None:
        if self.url.startswith("memory:"):
            raise UserError(
                f"cache {self.url}: memory ends with the process, and the results with it; expected a folder or a URL "
                "that other processes can open"
            )
        probe = f".{uuid.uuid4().hex}.tmp"
        self.replace(probe, b"")
        self.delete_file(probe)


def _reason(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
