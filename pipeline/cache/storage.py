"""File operations of the cache, on the local disk or on any fsspec file system.

A file appears complete or not at all, and is on the disk when a write returns. Listings and removals never follow a
symbolic link, so nothing outside the cache is listed or removed. Listings that grow with the data set are iterators.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a folder in a listing, which leaves links out."""

    name: str
    is_folder: bool


class Storage(ABC):
    """A folder of files; paths are relative to it and use `/`."""

    url: str

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Returns a file's bytes. Raises `FileNotFoundError`."""

    @abstractmethod
    def read_many(self, paths: Iterable[str]) -> Iterator[bytes | None]:
        """Yields the bytes of each file in order, `None` for a missing one; an unreadable local file is empty."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Writes a new file; returns `False`, and writes nothing, if the file exists and the system can tell."""

    @abstractmethod
    def replace(self, path: str, data: bytes) -> None:
        """Writes a file, or replaces the existing one."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Returns whether `path` is a file."""

    @abstractmethod
    def entries(self, path: str) -> Iterator[Entry]:
        """Lists a folder in no order; yields nothing if the folder is missing."""

    @abstractmethod
    def sizes(self, path: str) -> dict[str, int]:
        """Returns the size in bytes of every file below a folder, at any depth, by path relative to the folder."""

    @abstractmethod
    def seconds_since_change(self, path: str) -> float:
        """Returns the age of the newest file at or below `path`; writing and renaming count as changes."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Removes a file, or a folder with its contents; a missing one is no error.

        A link is removed itself, never its target. Raises `UserError` for a path that a link leads out of the cache.
        """

    def delete_file(self, path: str) -> None:
        """Removes a file; on an object store by one request, where `delete` lists the path first."""
        self.delete(path)

    @abstractmethod
    def check_writable(self) -> None:
        """Raises `UserError` if no file can be written."""

    def is_link(self, path: str) -> bool:
        """Returns whether `path` is a symbolic link."""
        return False

    def links(self, path: str) -> list[str]:
        """Returns the sorted names of the links in a folder."""
        return []

    def has_folder(self, path: str) -> bool:
        """Returns whether `path` is a folder; on an object store, a folder with contents."""
        return next(self.entries(path), None) is not None

    def move_to_temporary(self, path: str) -> str:
        """Renames a file to a temporary name where the system can, and returns the file's path."""
        return path

    def restore(self, temporary: str, path: str) -> None:
        """Reverts `move_to_temporary`; a newer file at `path` is kept."""
        return

    def seconds_since_write(self, path: str) -> float:
        """Returns the age of a file's content; renaming does not count."""
        return self.seconds_since_change(path)

    def folders(self, path: str) -> list[str]:
        """Returns the sorted names of the folders in a folder."""
        return sorted(entry.name for entry in self.entries(path) if entry.is_folder)

    def files(self, path: str) -> Iterator[str]:
        """Yields the names of the files in a folder, in no order."""
        return (entry.name for entry in self.entries(path) if not entry.is_folder)

    def size(self, path: str) -> int:
        """Returns the bytes of a file, or of all files below a folder."""
        return sum(self.sizes(path).values())
