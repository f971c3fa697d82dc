"""Detects stale cache entries: compares markers with image files and with the markers of upstream images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pipeline.cache.artefact import Artefact
from pipeline.cache.marker import Marker, Source
from pipeline.core.errors import ImageError
from pipeline.core.hashing import file_digest


def read_source(path: Path) -> Source:
    """Returns size, modification time and digest of an image file. Raises `ImageError` if it cannot be read."""
    try:
        stat = path.stat()
        return Source(stat.st_size, stat.st_mtime_ns, file_digest(path))
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None


def source_matches(marker: Marker | None, path: Path | str, *, by_content: bool = False) -> bool:
    """Returns whether there is a marker and its image file is unchanged, see `refresh_marker`."""
    return refresh_marker(marker, path, by_content=by_content) is not None


def refresh_marker(marker: Marker | None, path: Path | str, *, by_content: bool = False) -> Marker | None:
    """Compares a marker with its image file: first size and time, and the digest if only the time differs.

    A marker without a source (of a foreign program) matches every file. `by_content` compares the digest in any case,
    which detects a file replaced by another of equal size and time.

    Returns:
        `marker`, with the file's time if that alone differs; `None` if the file has changed, or without a marker.
    """
    if marker is None or marker.source is None:
        return marker
    try:
        stat = os.stat(path)
        is_touched = stat.st_mtime_ns != marker.source.mtime_ns
        if stat.st_size != marker.source.size:
            return None
        if (is_touched or by_content) and file_digest(Path(path)) != marker.source.sha256:
            return None
    except OSError:
        return None
    return replace(marker, source=replace(marker.source, mtime_ns=stat.st_mtime_ns)) if is_touched else marker


def upstream_markers(image_id: str, upstream: Mapping[str, Artefact]) -> dict[str, Marker]:
    """Returns the marker of an image in every upstream artefact, by kind.

    Raises `ImageError` if the image failed or is not computed in one of them, or if they hold different versions of it
    (after a run that did not finish).
    """
    markers = {}
    for kind, artefact in upstream.items():
        marker = artefact.find_marker(image_id)
        if marker is None:
            raise ImageError(f"{kind}: {artefact.failure_reason(image_id) or f'not computed ({artefact.path})'}")
        markers[kind] = marker
    digests = {kind: marker.source.sha256 for kind, marker in markers.items() if marker.source is not None}
    if len(set(digests.values())) > 1:
        kinds = " and ".join(digests)
        raise ImageError(f"{kinds} were made from different versions of the image; run precompute again")
    for kind, marker in markers.items():
        for other in set(marker.inputs) & set(markers):
            if marker.inputs[other] != markers[other].content:
                reason = f"was made from another version of {other} than the cache holds"
                raise ImageError(f"{kind}: {reason}; run precompute again")
    return markers
