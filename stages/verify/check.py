"""Compares cached files and source images with what the markers say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.digests import file_digest
from pipeline.errors import ImageError
from pipeline.manifests import ImageRecord
from pipeline.progress import Progress
from pipeline.store import Artefact, Cache


@dataclass(frozen=True)
class Problem:
    """One damaged or outdated cached image."""

    artefact: Artefact
    image_id: str
    reason: str


def check_cache(cache: Cache, records: Sequence[ImageRecord], progress: Progress) -> tuple[list[Problem], int]:
    """Every problem of the images in ``records``, and how many cached images were looked at."""
    wanted = {record.id: record for record in records}
    work = [
        (artefact, marker)
        for artefact in cache.artefacts()
        for marker in artefact.done().values()
        if marker.id in wanted
    ]
    problems = []
    progress.start("verify", len(work))
    for artefact, marker in work:
        path = wanted[marker.id].path
        reason = None
        try:
            artefact.verify(marker)
        except ImageError as error:
            reason = str(error)
        if marker.source is not None and file_digest(path) != marker.source.sha256:
            reason = f"{marker.id}: {path} has changed since it was cached"
        if reason:
            problems.append(Problem(artefact, marker.id, reason))
        progress.advance(failed=reason is not None)
    return problems, len(work)
