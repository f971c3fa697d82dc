"""The cache of one data set: its artefacts, what they weigh, and the sweeping of what killed runs left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.cache.artefact import Artefact
from pipeline.cache.storage import Storage, open_storage
from pipeline.core.errors import UserError

#: What an artefact's folder may hold; a folder with none of these is something else.
_PARTS = {"done", "failed", "images"}


@dataclass(frozen=True)
class ArtefactSummary:
    """What `inspect` shows of one artefact; sizes in bytes over all finished images."""

    artefact: Artefact
    images: int
    failed: int
    damaged: int
    bytes_by_array: dict[str, int]

    @property
    def bytes_per_image(self) -> float:
        return sum(self.bytes_by_array.values()) / self.images if self.images else 0.0


class Cache:
    """All artefacts below `url` (a folder or an fsspec URL) for the data set `name`."""

    def __init__(self, url: str, name: str) -> None:
        separator = "" if url.endswith("/") else "/"
        self.storage: Storage = open_storage(f"{url}{separator}{name}")

    def artefact(self, kind: str, key: str) -> Artefact:
        return Artefact(self.storage, kind, key)

    def artefacts(self) -> list[Artefact]:
        """Every artefact in the cache, sorted by kind and key; links and folders of other contents are passed over."""
        artefacts = (self.artefact(kind, key) for kind in self._folders() for key in self.storage.folders(kind))
        return [artefact for artefact in artefacts if artefact.exists() or self._has_parts(artefact)]

    def _folders(self) -> list[str]:
        return [name for name in self.storage.folders("") if not name.startswith(".")]

    def _has_parts(self, artefact: Artefact) -> bool:
        return bool(_PARTS & {*self.storage.folders(artefact.path), *self.storage.links(artefact.path)})

    def readable_artefacts(self) -> tuple[list[Artefact], list[str]]:
        """The artefacts of a format that this program reads, and a sentence for each other one and for each link."""
        readable, refused = [], []
        for folder in ("", *self._folders()):
            for name in self.storage.links(folder):
                refused.append(f"{self.storage.url}/{folder}/{name}: is a link; expected a folder".replace("//", "/"))
        for artefact in self.artefacts():
            try:
                artefact.attributes()
                readable.append(artefact)
            except UserError as error:
                refused.append(str(error))
        return readable, refused

    def summarise(self, artefact: Artefact) -> ArtefactSummary:
        """Counts and bytes per array, from the markers (and the files of images whose marker lists none)."""
        sizes: Counter[str] = Counter()
        damaged: list[str] = []
        images = 0
        for marker in artefact.markers(lambda path, reason: damaged.append(path)):
            images += 1
            arrays = marker.arrays or {"": artefact.storage.size(artefact.file_path(marker))}
            if marker.size is not None:  # what the zip file has besides its members
                arrays = {**arrays, "": marker.size - sum(size for name, size in arrays.items() if name)}
            for name, size in arrays.items():
                sizes[name or "(group)"] += size
        failed = sum(1 for _ in artefact.failures(lambda path, reason: damaged.append(path)))
        return ArtefactSummary(artefact, images, failed, len(damaged), dict(sorted(sizes.items())))

    def orphans(self, artefacts: list[Artefact], older_than_seconds: float) -> Iterator[str]:
        """Files that no marker names and that nobody has written to for this long; and left-over temporary files.

        Only `artefacts` are looked at, and of them only those that have markers at all: where `done` is missing,
        its copy or its disk may still be on the way.
        """
        for path in self._unnamed(artefacts):
            if self.storage.age(path) >= older_than_seconds:
                yield path

    def _unnamed(self, artefacts: list[Artefact]) -> Iterator[str]:
        yield from self._temporaries("")
        for artefact in artefacts:
            for folder in ("", "/done", "/failed", "/images"):
                yield from self._temporaries(f"{artefact.path}{folder}")
            if not self.storage.has_folder(f"{artefact.path}/done"):
                continue
            images = f"{artefact.path}/images"
            for entry in self.storage.entries(images):
                if entry.is_folder:
                    attempts = self.storage.folders(f"{images}/{entry.name}")
                    for attempt in attempts:
                        if not artefact.names_file(entry.name, f"{entry.name}/{attempt}"):
                            yield f"{images}/{entry.name}/{attempt}"
                elif not entry.name.endswith(".zip") or entry.name.startswith("."):
                    continue
                elif not artefact.names_file(_image_name(entry.name), entry.name):
                    yield f"{images}/{entry.name}"

    def _temporaries(self, folder: str) -> Iterator[str]:
        prefix = f"{folder}/" if folder else ""
        names = self.storage.files(folder)
        return (f"{prefix}{name}" for name in names if name.startswith(".") and name.endswith(".tmp"))

    def sweep(self, path: str, older_than_seconds: float) -> bool:
        """Removes what `orphans` found; False if it is no orphan any more.

        The file of an image is set aside first. A writer that names it in this moment then finds it missing and writes
        it again, or its marker is there, and the file is put back.
        """
        parts = path.split("/")
        if len(parts) != 4 or not parts[3].endswith(".zip"):
            self.storage.delete(path)
            return True
        kind, key, _, file = parts
        aside = self.storage.set_aside(path)
        artefact = self.artefact(kind, key)
        named = artefact.names_file(_image_name(file), file)
        if named or self.storage.written_ago(aside) < older_than_seconds:
            self.storage.put_back(aside, path)
            return False
        self.storage.delete(aside)
        return True

    def drop(self, artefact: Artefact) -> None:
        """Removes a whole artefact: its markers first, so that a kill leaves no images that seem to be finished."""
        self.storage.delete(f"{artefact.path}/done")
        self.storage.delete(artefact.path)


def _image_name(file: str) -> str:
    """The encoded id in the name of an image's file."""
    return file.removesuffix(".zip").rpartition(".")[0]
