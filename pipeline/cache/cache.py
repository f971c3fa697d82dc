"""The cache of one data set: its artefacts, their sizes, and the removal of files that killed runs left."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.cache.artefact import Artefact
from pipeline.cache.local import LocalStorage
from pipeline.cache.remote import RemoteStorage
from pipeline.cache.storage import Storage
from pipeline.core.errors import UserError

#: Folders of an artefact; a folder with none of these, and without a root group, is no artefact.
_ARTEFACT_FOLDERS = {"done", "failed", "images"}


@dataclass(frozen=True)
class ArtefactSummary:
    """Counts of finished and failed images and of damaged records, and stored bytes by array of all finished images."""

    artefact: Artefact
    images: int
    failed: int
    damaged: int
    bytes_by_array: dict[str, int]

    @property
    def bytes_per_image(self) -> float:
        """Mean stored bytes of a finished image; 0 without one."""
        return sum(self.bytes_by_array.values()) / self.images if self.images else 0.0


class Cache:
    """All artefacts of the data set `name` below `url`, a folder or an fsspec URL.

    Raises `UserError` if the location cannot hold a cache.
    """

    def __init__(self, url: str, name: str) -> None:
        separator = "" if url.endswith("/") else "/"
        self.storage = _open_storage(f"{url}{separator}{name}")

    def artefact(self, kind: str, key: str) -> Artefact:
        """Returns `<kind>/<key>`, whether it exists or not."""
        return Artefact(self.storage, kind, key)

    def artefacts(self) -> list[Artefact]:
        """Returns every folder that looks like an artefact, sorted by kind and key. Links are left out."""
        artefacts = (self.artefact(kind, key) for kind in self._kinds() for key in self.storage.folders(kind))
        return [artefact for artefact in artefacts if artefact.exists() or self._has_artefact_folder(artefact)]

    def _kinds(self) -> list[str]:
        return [name for name in self.storage.folders("") if not name.startswith(".")]

    def _has_artefact_folder(self, artefact: Artefact) -> bool:
        return bool(_ARTEFACT_FOLDERS & {*self.storage.folders(artefact.path), *self.storage.links(artefact.path)})

    def readable_artefacts(self) -> tuple[list[Artefact], list[str]]:
        """Returns the artefacts of a format that this program reads, and an error message for each other one."""
        readable, errors = [], []
        for folder in ("", *self._kinds()):
            for name in self.storage.links(folder):
                errors.append(f"{self.storage.url}/{folder}/{name}: is a link; expected a folder".replace("//", "/"))
        for artefact in self.artefacts():
            try:
                artefact.attributes()
                readable.append(artefact)
            except UserError as error:
                errors.append(str(error))
        return readable, errors

    def summarise(self, artefact: Artefact) -> ArtefactSummary:
        """Counts images and bytes from the markers (and from the files of images whose marker has no sizes)."""
        sizes: Counter[str] = Counter()
        damaged: list[str] = []
        images = 0
        for marker in artefact.markers(lambda path, reason: damaged.append(path)):
            images += 1
            arrays = marker.arrays or {"": artefact.storage.size(artefact.file_path(marker))}
            if marker.size is not None:  # the rest of the zip file belongs to the group
                arrays = {**arrays, "": marker.size - sum(size for name, size in arrays.items() if name)}
            for name, size in arrays.items():
                sizes[name or "(group)"] += size
        failed = sum(1 for _ in artefact.failures(lambda path, reason: damaged.append(path)))
        return ArtefactSummary(artefact, images, failed, len(damaged), dict(sorted(sizes.items())))

    def find_orphans(self, artefacts: list[Artefact], older_than_seconds: float) -> Iterator[str]:
        """Yields temporary files and image files that no marker references, if they are old enough.

        A run may still write younger ones. An artefact without `done` is passed over: its copy may be on the way, or
        its disk missing.
        """
        files = self._unreferenced_files(artefacts)
        return (path for path in files if self.storage.seconds_since_change(path) >= older_than_seconds)

    def _unreferenced_files(self, artefacts: list[Artefact]) -> Iterator[str]:
        yield from self._temporary_files("")
        for artefact in artefacts:
            for folder in ("", "/done", "/failed", "/images"):
                yield from self._temporary_files(f"{artefact.path}{folder}")
            if not self.storage.has_folder(f"{artefact.path}/done"):
                continue
            images = f"{artefact.path}/images"
            for entry in self.storage.entries(images):
                if entry.is_folder:  # an image of format 1
                    attempts = self.storage.folders(f"{images}/{entry.name}")
                    image, files = entry.name, [f"{entry.name}/{attempt}" for attempt in attempts]
                else:
                    is_image = entry.name.endswith(".zip") and not entry.name.startswith(".")
                    image, files = _encoded_id(entry.name), [entry.name] if is_image else []
                yield from (f"{images}/{file}" for file in files if not artefact.references(image, file))

    def _temporary_files(self, folder: str) -> Iterator[str]:
        prefix = f"{folder}/" if folder else ""
        names = self.storage.files(folder)
        return (f"{prefix}{name}" for name in names if name.startswith(".") and name.endswith(".tmp"))

    def remove_orphan(self, path: str, older_than_seconds: float) -> bool:
        """Removes a file that `find_orphans` found; returns `False` if it is no orphan any more.

        An image file is renamed first. A writer that references it at this moment then misses it and writes it again,
        or its marker exists, and the file is restored.
        """
        parts = path.split("/")
        if len(parts) != 4 or not parts[3].endswith(".zip"):
            self.storage.delete(path)
            return True
        kind, key, _, file = parts
        temporary = self.storage.move_to_temporary(path)
        is_referenced = self.artefact(kind, key).references(_encoded_id(file), file)
        if is_referenced or self.storage.seconds_since_write(temporary) < older_than_seconds:
            self.storage.restore(temporary, path)
            return False
        self.storage.delete(temporary)
        return True

    def drop(self, artefact: Artefact) -> None:
        """Removes an artefact, its markers first: after a kill no image seems finished whose file is gone."""
        self.storage.delete(f"{artefact.path}/done")
        self.storage.delete(artefact.path)


def _encoded_id(file: str) -> str:
    """Returns the encoded image id in the name of an image's zip file."""
    return file.removesuffix(".zip").rpartition(".")[0]


def _open_storage(url: str) -> Storage:
    if "://" in url and not url.startswith("file://"):
        return RemoteStorage(url)
    root = Path(url.removeprefix("file://")).expanduser()
    for folder in (root, *root.parents):
        if os.path.lexists(folder) and not folder.is_dir():
            raise UserError(f"cache {url}: {folder} is a file; expected a folder, or a place for one")
    return LocalStorage(root)
