"""Whether a finished image is still true: made from the image file and the upstream images that are there now."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pipeline.cache.marker import Marker, Source
from pipeline.core.errors import ImageError
from pipeline.core.hashing import file_digest


def read_source(path: Path) -> Source:
    """Size, modification time and digest of an image file. Raises `ImageError` if it cannot be read."""
    try:
        stat = path.stat()
        return Source(stat.st_size, stat.st_mtime_ns, file_digest(path))
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None


def made_from_file(marker: Marker | None, path: Path | str, *, by_content: bool = False) -> bool:
    """Is `marker` about the file as it is now? See `marker_of_file`."""
    return marker_of_file(marker, path, by_content=by_content) is not None


def marker_of_file(marker: Marker | None, path: Path | str, *, by_content: bool = False) -> Marker | None:
    """`marker` if it is about the file as it is now, else None; one of a touched file has the file's new time.

    Size and time decide; only if the time differs, the digest. `by_content` compares the digest in any case: it
    notices a file that was replaced by another of its size and time. A marker without a source (written by a foreign
    program) is trusted.
    """
    if marker is None or marker.source is None:
        return marker
    try:
        stat = os.stat(path)
        touched = stat.st_mtime_ns != marker.source.mtime_ns
        if stat.st_size != marker.source.size:
            return None
        if (touched or by_content) and file_digest(Path(path)) != marker.source.sha256:
            return None
    except OSError:
        return None
    return replace(marker, source=replace(marker.source, mtime_ns=stat.st_mtime_ns)) if touched else marker


def made_from_inputs(marker: Marker | None, inputs: Mapping[str, Marker]) -> bool:
    """Is `marker` about these upstream images?"""
    return marker is not None and marker.inputs == {kind: upstream.content for kind, upstream in inputs.items()}
