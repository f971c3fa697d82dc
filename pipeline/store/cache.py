"""The cache of one data set: its artefacts, what they weigh, and the sweeping of what killed runs left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import UserError
from pipeline.store.artefact import Artefact
from pipeline.store.marker import Marker
from pipeline.store.storage import Storage, open_storage

KINDS = ("sam", "masks", "teacher", "fused")


@dataclass(frozen=True)
class ArtefactSummary:
    """What ``inspect`` shows of one artefact; sizes in bytes over all finished images."""

    artefact: Artefact
    images: int
    failed: int
    damaged: int
    bytes_by_array: dict[str, int]

    @property
    def bytes_per_image(self) -> float:
        return sum(self.bytes_by_array.values()) / self.images if self.images else 0.0


class Cache:
    """All artefacts below ``url`` (a folder or an fsspec URL) for the data set ``name``."""

    def __init__(self, url: str, name: str) -> None:
        separator = "" if url.endswith("/") else "/"
        self.storage: Storage = open_storage(f"{url}{separator}{name}")

    def artefact(self, kind: str, key: str) -> Artefact:
        return Artefact(self.storage, kind, key)

    def artefacts(self) -> list[Artefact]:
        """Every artefact in the cache, in the order of the pipeline; links are passed over."""
        return [self.artefact(kind, key) for kind in KINDS for key in self.storage.folders(kind)]

    def readable_artefacts(self) -> tuple[list[Artefact], list[str]]:
        """The artefacts of a format that this program reads, and a sentence for each other one."""
        readable, refused = [], []
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

        Only ``artefacts`` are looked at. Whether a marker names a file is asked when the file comes up: one that was
        committed meanwhile is none.
        """
        for path in self._unnamed(artefacts):
            if self.storage.age(path) >= older_than_seconds:
                yield path

    def _unnamed(self, artefacts: list[Artefact]) -> Iterator[str]:
        yield from self._temporaries("")
        for artefact in artefacts:
            for folder in ("", "/done", "/failed", "/images"):
                yield from self._temporaries(f"{artefact.path}{folder}")
            images = f"{artefact.path}/images"
            for entry in self.storage.entries(images):
                if entry.is_folder:
                    for attempt in self.storage.folders(f"{images}/{entry.name}"):
                        if not self._is_named(artefact, entry.name, f"{entry.name}/{attempt}"):
                            yield f"{images}/{entry.name}/{attempt}"
                elif entry.name.endswith(".zip") and not entry.name.startswith("."):
                    name = entry.name.removesuffix(".zip").rpartition(".")[0]
                    if not self._is_named(artefact, name, entry.name):
                        yield f"{images}/{entry.name}"

    def _temporaries(self, folder: str) -> Iterator[str]:
        prefix = f"{folder}/" if folder else ""
        names = self.storage.files(folder)
        return (f"{prefix}{name}" for name in names if name.startswith(".") and name.endswith(".tmp"))

    def _is_named(self, artefact: Artefact, name: str, file: str) -> bool:
        """Whether the marker of the image that is encoded as ``name`` says ``file``.

        A marker that is damaged keeps its file: ``verify --repair`` decides.
        """
        try:
            data = self.storage.read(f"{artefact.path}/done/{name}.json")
        except FileNotFoundError:
            return False
        try:
            return Marker.from_json(data).file == file
        except ValueError:
            return True

    def sweep(self, path: str) -> None:
        """Removes what :meth:`orphans` found, or a whole artefact; empty folders of images go along."""
        self.storage.delete(path)
