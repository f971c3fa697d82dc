"""Compares the cache with its markers, and removes what differs and what was computed from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.cache import Artefact, Cache, Marker
from pipeline.cache.marker import encode_id
from pipeline.core.errors import ImageError, UserError
from pipeline.core.hashing import file_digest
from pipeline.core.progress import Progress, SilentProgress
from pipeline.data.manifests import ImageRecord

#: Kinds of artefacts that each kind may be computed from; the others are computed from image files alone.
_UPSTREAM_KINDS = {"masks": ("sam",), "fused": ("sam", "masks", "teacher")}


@dataclass(frozen=True)
class Problem:
    """A damaged or outdated part of the cache.

    It is an image (`marker`), a file that is no valid record (`path`), or otherwise the root group of the artefact. An
    image file that cannot be read is not `repairable`: it is only reported.
    """

    artefact: Artefact
    reason: str
    marker: Marker | None = None
    path: str | None = None
    repairable: bool = True


class CacheCheck:
    """A check of all artefacts in the cache; artefacts of another format are passed over.

    Images of `records` are compared with their files too. Without `all_images` the others are left out.
    """

    def __init__(self, cache: Cache, records: Sequence[ImageRecord], *, all_images: bool = True) -> None:
        self.checked_images = 0  #: number of cached images that were checked
        self._cache, self._records = cache, {record.id: record for record in records}
        self._all_images = all_images

    def problems(self, progress: Progress = SilentProgress()) -> Iterator[Problem]:
        """Yields every problem; reads and decodes all arrays."""
        for artefact in self._cache.artefacts():
            problem = _check_root(artefact)
            if problem is not None:
                yield problem
            if problem is not None or _is_readable(artefact):
                yield from self._check_images(artefact, progress)

    def _check_images(self, artefact: Artefact, progress: Progress) -> Iterator[Problem]:
        damaged: list[Problem] = []

        def on_damage(path: str, reason: str) -> None:
            damaged.append(Problem(artefact, f"{path}: is no valid record: {reason}", path=path))

        count = sum(1 for name in artefact.storage.files(f"{artefact.path}/done") if not name.startswith("."))
        progress.start(f"verify {artefact.path}", count)
        for marker in artefact.markers(on_damage):
            problem = None
            if self._all_images or marker.id in self._records:
                self.checked_images += 1
                problem = _check_image(artefact, marker, self._records.get(marker.id))
                if problem is not None:
                    yield problem
            progress.advance(failed=problem is not None)
        for _ in artefact.failures(on_damage):
            pass
        yield from damaged


def _check_root(artefact: Artefact) -> Problem | None:
    try:
        artefact.read_root()
    except FileNotFoundError:
        if {"done", "images"} & set(artefact.storage.folders(artefact.path)):
            return Problem(artefact, f"{artefact.path}/zarr.json: is missing")
    except ValueError as error:
        return Problem(artefact, f"{artefact.path}/zarr.json: {error}")
    return None


def _is_readable(artefact: Artefact) -> bool:
    try:
        artefact.attributes()
    except UserError:
        return False
    return True


def _check_image(artefact: Artefact, marker: Marker, record: ImageRecord | None) -> Problem | None:
    try:
        artefact.verify(marker)
    except ImageError as error:
        return Problem(artefact, str(error), marker)
    if record is None or marker.source is None:
        return None
    try:
        if file_digest(record.path) == marker.source.sha256:
            return None
    except OSError as error:  # its disk may be unmounted: the cached image stays
        return Problem(artefact, f"{record.path} cannot be read ({error.strerror})", marker, repairable=False)
    return Problem(artefact, f"{marker.id}: {record.path} has changed since it was cached", marker)


def repair(cache: Cache, problem: Problem) -> list[str]:
    """Removes the marker of a damaged image, and before it those of all images computed from it.

    The stages then compute them again. Files outside the cache, artefacts of another format, and an image that was
    computed again since the check are left alone. Returns the path of the artefact of every removed marker.
    """
    artefact = problem.artefact
    if not problem.repairable:
        return []
    if problem.marker is not None:
        if artefact.find_marker(problem.marker.id) != problem.marker:
            return []
        path = f"{artefact.path}/done/{encode_id(problem.marker.id)}.json"
    elif problem.path is not None:
        path = problem.path
    else:
        artefact.repair_root()
        return []
    folder, _, name = path.rpartition("/")
    if folder == f"{artefact.path}/failed" or not name.endswith(".json"):
        artefact.storage.delete(path)
        return []
    removed = _remove_dependents(cache, artefact, name)  # first: after a kill the damage is found again
    artefact.storage.delete(path)
    return [artefact.path, *removed]


def _remove_dependents(cache: Cache, artefact: Artefact, name: str) -> list[str]:
    """Removes the marker `name` from every artefact computed from `artefact`, directly or not; returns their paths."""
    removed = []
    for other in cache.artefacts():
        if _depends_on(other, artefact):
            removed += _remove_dependents(cache, other, name)
            if other.storage.exists(f"{other.path}/done/{name}"):
                other.storage.delete(f"{other.path}/done/{name}")
                removed.append(other.path)
    return removed


def _depends_on(other: Artefact, artefact: Artefact) -> bool:
    """Returns whether `other` names `artefact` in its root group, or may have done so before that was lost."""
    if artefact.kind not in _UPSTREAM_KINDS.get(other.kind, ()):
        return False
    root = other.find_root()
    if root is None:
        return True
    upstream = root.get("upstream")
    return _is_readable(other) and (not isinstance(upstream, dict) or upstream.get(artefact.kind) == artefact.key)


def find_adapted_teachers(cache: Cache, fused: str) -> list[str]:
    """Returns the logits of TAs that were fine-tuned on the ensembles of `fused/<key>`."""
    paths = []
    for artefact in cache.artefacts():
        parent = (artefact.find_root() or {}).get("adapted_from")
        if isinstance(parent, dict) and f"fused/{parent.get('fused')}" == fused:
            paths.append(artefact.path)
    return paths
