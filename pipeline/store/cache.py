"""The cache of one data set: its artefacts, what they weigh, and the sweeping of what killed runs left."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from pipeline.store.artefact import Artefact
from pipeline.store.storage import Storage, open_storage

KINDS = ("sam", "masks", "teacher", "fused")


@dataclass(frozen=True)
class ArtefactSummary:
    """What ``inspect`` shows of one artefact; sizes in bytes over all finished images."""

    artefact: Artefact
    images: int
    failed: int
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
        """Every artefact in the cache, in the order of the pipeline."""
        return [self.artefact(kind, key) for kind in KINDS for key in self.storage.folders(kind)]

    def summarise(self, artefact: Artefact) -> ArtefactSummary:
        """Counts and bytes per array, from the markers (and one listing for images without a file list)."""
        sizes: Counter[str] = Counter()
        done = artefact.done()
        for marker in done.values():
            files = {name: size for name, (size, _) in marker.files.items()}
            for name, size in (files or artefact.storage.sizes(artefact.attempt_path(marker))).items():
                array = name.rsplit("/c/", 1)[0] if "/c/" in name else name.rpartition("/")[0]
                sizes[array or "(group)"] += size
        return ArtefactSummary(artefact, len(done), len(artefact.failed()), dict(sorted(sizes.items())))

    def orphans(self, older_than_seconds: float) -> list[str]:
        """Attempts that no marker names and that nobody has written to for this long; and left-over temporary files."""
        found = self.storage.temporaries("")
        for artefact in self.artefacts():
            for folder in (artefact.path, f"{artefact.path}/done", f"{artefact.path}/failed"):
                found += self.storage.temporaries(folder)
            images = f"{artefact.path}/images"
            attempts = [
                f"{images}/{image}/{attempt}"
                for image in self.storage.folders(images)
                for attempt in self.storage.folders(f"{images}/{image}")
            ]
            # markers are read last: what was committed since its attempt was listed is wanted too
            wanted = {artefact.attempt_path(marker) for marker in artefact.done().values()}
            found += [attempt for attempt in attempts if attempt not in wanted]
        return [path for path in found if self.storage.age(path) >= older_than_seconds]

    def sweep(self, paths: list[str]) -> None:
        """Removes orphans."""
        for path in paths:
            self.storage.delete(path)
