"""The cache on an object store, or on any other file system that fsspec knows."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from itertools import islice

from pipeline.errors import UserError
from pipeline.store.storage import Entry, Storage

#: Files that are asked for at once.
_BATCH = 256


class RemoteStorage(Storage):
    """Any fsspec file system. An object appears whole when its upload ends."""

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

    def read_many(self, paths: Iterable[str]) -> Iterator[bytes | None]:
        waiting = iter(paths)
        while batch := list(islice(waiting, _BATCH)):
            full = [self._path(path) for path in batch]
            found = {name.lstrip("/"): data for name, data in self.fs.cat(full, on_error="return").items()}
            for name in full:
                data = found.get(name.lstrip("/"))
                if isinstance(data, Exception) and not isinstance(data, FileNotFoundError):
                    raise data
                yield data if isinstance(data, bytes) else None

    def create(self, path: str, data: bytes) -> bool:
        if self.exists(path):
            return False
        self.replace(path, data)
        return True

    def replace(self, path: str, data: bytes) -> None:
        self.fs.makedirs(self._path(path).rsplit("/", 1)[0], exist_ok=True)
        self.fs.pipe_file(self._path(path), data)

    def exists(self, path: str) -> bool:
        self.fs.invalidate_cache()
        return bool(self.fs.isfile(self._path(path)))

    def entries(self, path: str) -> Iterator[Entry]:
        self.fs.invalidate_cache()
        try:
            found = self.fs.ls(self._path(path), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return
        folder = self._path(path).lstrip("/")
        for info in found:
            name = info["name"].rstrip("/").lstrip("/")
            if name != folder:  # an object store may list the folder's own placeholder
                yield Entry(name.rsplit("/", 1)[-1], info["type"] == "directory")

    def sizes(self, path: str) -> dict[str, int]:
        self.fs.invalidate_cache()
        root = self._path(path)
        found = self.fs.find(root, detail=True)
        return {name.lstrip("/")[len(root.lstrip("/")) + 1 :]: int(info["size"]) for name, info in found.items()}

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

    def check_writable(self) -> None:
        probe = f".{uuid.uuid4().hex}.tmp"
        try:
            self.replace(probe, b"")
            self.delete(probe)
        except Exception as error:  # every file system raises its own kinds
            raise UserError(f"cache {self.url}: cannot be written ({error})") from None
