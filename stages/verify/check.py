"""Compares what the cache holds with what its markers say, and forgets what differs and what was made from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from pipeline.cache import Artefact, Cache, Marker
from pipeline.cache.marker import encode_id
from pipeline.core.errors import ImageError, UserError
from pipeline.core.hashing import file_digest
from pipeline.core.progress import Progress
from pipeline.data.manifests import ImageRecord


@dataclass(frozen=True)
class Problem:
    """One thing in the cache that is damaged or outdated.

    With `marker` it is an image, with `path` a file that is no valid marker or record, with neither the root group.
    One that is not `repairable` is told alone.
    """

    artefact: Artefact
    reason: str
    marker: Marker | None = None
    path: str | None = None
    repairable: bool = True


@dataclass
class Checked:
    """How much was looked at."""

    images: int = 0


def check_cache(
    cache: Cache, records: Sequence[ImageRecord], progress: Progress, checked: Checked, *, all_images: bool = True
) -> Iterator[Problem]:
    """Every problem of the cache, one at a time; `checked` counts the images that were looked at.

    Without `all_images` only the images in `records` are read. ArtefactKeys of another format are passed over.
    """
    wanted = {record.id: record for record in records}
    for artefact in cache.artefacts():
        problem = _check_root(artefact)
        if problem is not None:
            yield problem
        elif not _readable(artefact):
            continue
        strays: list[Problem] = []
        stray = partial(_add_stray, strays, artefact)
        count = sum(1 for name in artefact.storage.files(f"{artefact.path}/done") if not name.startswith("."))
        progress.start(f"verify {artefact.path}", count)
        for marker in artefact.markers(stray):
            found = None
            if all_images or marker.id in wanted:
                checked.images += 1
                found = _check_image(artefact, marker, wanted.get(marker.id))
                if found is not None:
                    yield found
            progress.advance(failed=found is not None)
        for _ in artefact.failures(stray):
            pass
        yield from strays


def _add_stray(found: list[Problem], artefact: Artefact, path: str, reason: str) -> None:
    found.append(Problem(artefact, f"{path}: is no valid record: {reason}", path=path))


def _check_root(artefact: Artefact) -> Problem | None:
    try:
        artefact.root_attributes()
    except FileNotFoundError:
        if {"done", "images"} & set(artefact.storage.folders(artefact.path)):
            return Problem(artefact, f"{artefact.path}/zarr.json: is missing")
    except ValueError as error:
        return Problem(artefact, f"{artefact.path}/zarr.json: {error}")
    return None


def _readable(artefact: Artefact) -> bool:
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
    except OSError as error:  # its disk may be away: no reason to forget what was made from it
        return Problem(artefact, f"{record.path} cannot be read ({error.strerror})", marker, repairable=False)
    return Problem(artefact, f"{marker.id}: {record.path} has changed since it was cached", marker)


def repair(cache: Cache, problem: Problem) -> list[str]:
    """Forgets what is damaged, and before it all that was made from it; the stages compute it again.

    Returns the artefacts of which an image was forgotten. Nothing outside the cache, and no artefact of another format,
    is touched; nor is an image that was computed again since it was looked at.
    """
    artefact = problem.artefact
    if not problem.repairable:
        return []
    if problem.marker is not None:
        if artefact.marker(problem.marker.id) != problem.marker:
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
    forgotten = _forget_made_from(cache, artefact, name)  # first: a kill leaves the damage to be found again
    artefact.storage.delete(path)
    return [artefact.path, *forgotten]


def _forget_made_from(cache: Cache, artefact: Artefact, name: str) -> list[str]:
    """Takes away the marker `name` of every artefact that was made from `artefact`, directly or not."""
    forgotten = []
    for other in cache.artefacts():
        if _made_from(other, artefact):
            forgotten += _forget_made_from(cache, other, name)
            if other.storage.exists(f"{other.path}/done/{name}"):
                other.storage.delete(f"{other.path}/done/{name}")
                forgotten.append(other.path)
    return forgotten


#: What an artefact of each kind may be made from; the others are made from image files alone.
UPSTREAM = {"masks": ("sam",), "fused": ("sam", "masks", "teacher")}


def _made_from(other: Artefact, artefact: Artefact) -> bool:
    """By its root group; one whose root was lost may have been made from any."""
    if artefact.kind not in UPSTREAM.get(other.kind, ()):
        return False
    try:
        upstream = other.root_attributes().get("upstream")
    except (FileNotFoundError, ValueError):
        return True
    if not _readable(other):
        return False
    return upstream.get(artefact.kind) == artefact.key if isinstance(upstream, dict) else True


def learned_from(cache: Cache, fused: str) -> list[str]:
    """The logits of TAs that were fine-tuned on the ensembles of `fused/<key>`."""
    found = []
    for artefact in cache.artefacts():
        try:
            parent = artefact.root_attributes().get("adapted_from")
        except (FileNotFoundError, ValueError):
            continue
        if isinstance(parent, dict) and f"fused/{parent.get('fused')}" == fused:
            found.append(artefact.path)
    return found
