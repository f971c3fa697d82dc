"""Files of the cache, on the local disk or on any fsspec file system; the only modules that know which.

It offers what a commit needs: a file appears whole or not at all, and what was written is on the disk. Listings and
removals never follow a symbolic link, so nothing outside the cache is listed or removed. Everything that grows with
the data set is an iterator.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import UserError


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a folder directly in a folder; links are neither, and are passed over."""

    name: str
    is_folder: bool


class Storage(ABC):
    """A folder of files; paths are relative, with `/`."""

    url: str

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The file's bytes. Raises `FileNotFoundError`."""

    @abstractmethod
    def read_many(self, paths: Iterable[str]) -> Iterator[bytes | None]:
        """The bytes of each file, in order; None for what is not there, none for what cannot be read."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Writes a whole new file; False (and no change) if there already is one, where the system can tell."""

    @abstractmethod
    def replace(self, path: str, data: bytes) -> None:
        """Writes a whole file in place of any other."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether there is a file."""

    @abstractmethod
    def entries(self, path: str) -> Iterator[Entry]:
        """What lies directly in a folder, in no order; nothing if there is no folder."""

    @abstractmethod
    def sizes(self, path: str) -> dict[str, int]:
        """Every file below a folder, at any depth: path relative to the folder, size in bytes."""

    @abstractmethod
    def age(self, path: str) -> float:
        """Seconds since the newest file at or below `path` changed."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Removes a file, or a folder with all below it; what is not there is no error.

        A link is removed itself, never what it leads to. Raises `UserError` for a path that a link leads out
        of the cache.
        """

    def delete_file(self, path: str) -> None:
        """As `delete`, of a file: one request to an object store."""
        self.delete(path)

    @abstractmethod
    def check_writable(self) -> None:
        """Raises `UserError` if nothing can be written here."""

    def is_link(self, path: str) -> bool:
        """Whether `path` is a symbolic link."""
        return False

    def links(self, path: str) -> list[str]:
        """Names of the links directly in a folder, sorted."""
        return []

    def has_folder(self, path: str) -> bool:
        """Whether there is a folder; an object store has those in which something lies."""
        return next(self.entries(path), None) is not None

    def set_aside(self, path: str) -> str:
        """Renames a file to a temporary one, whose path is returned, where the system can; else it stays."""
        return path

    def put_back(self, aside: str, path: str) -> None:
        """Undoes `set_aside`, unless there is a new file at `path`."""
        return

    def written_ago(self, path: str) -> float:
        """Seconds since a file got its content: a later renaming does not count."""
        return self.age(path)

    def folders(self, path: str) -> list[str]:
        """Names of the folders directly in a folder, sorted."""
        return sorted(entry.name for entry in self.entries(path) if entry.is_folder)

    def files(self, path: str) -> Iterator[str]:
        """Names of the files directly in a folder, in no order."""
        return (entry.name for entry in self.entries(path) if not entry.is_folder)

    def size(self, path: str) -> int:
        """Bytes of a file, or of all files below a folder."""
        return sum(self.sizes(path).values())


def open_storage(url: str) -> Storage:
    """The storage at `url`: a path, `file://...`, or any URL that fsspec knows.

    Raises `UserError` where no cache can be.
    """
    if "://" not in url or url.startswith("file://"):
        root = Path(url.removeprefix("file://")).expanduser()
        for folder in (root, *root.parents):
            if os.path.lexists(folder) and not folder.is_dir():
                raise UserError(f"cache {url}: {folder} is a file; expected a folder, or a place for one")
        from pipeline.cache.local import LocalStorage

        return LocalStorage(root)
    from pipeline.cache.remote import RemoteStorage

    return RemoteStorage(url)
