"""Whether a finished image is still true: made from the image file and the upstream images that are there now."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pipeline.digests import file_digest
from pipeline.errors import ImageError
from pipeline.store.marker import Marker, Source


def read_source(path: Path) -> Source:
    """Size, modification time and digest of an image file. Raises :class:`ImageError` if it cannot be read."""
    try:
        stat = path.stat()
        return Source(stat.st_size, stat.st_mtime_ns, file_digest(path))
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None


def made_from_file(marker: Marker | None, path: Path | str, *, by_content: bool = False) -> bool:
    """Is ``marker`` about the file as it is now? Size and time decide; only if the time differs, the digest.

    ``by_content`` compares the digest in any case: it notices a file that was replaced by another of its size and
    time. A marker without a source (written by a foreign program) is trusted.
    """
    if marker is None:
        return False
    if marker.source is None:
        return True
    try:
        stat = os.stat(path)
        if stat.st_size != marker.source.size:
            return False
        if stat.st_mtime_ns == marker.source.mtime_ns and not by_content:
            return True
        return file_digest(Path(path)) == marker.source.sha256
    except OSError:
        return False


def renewed_time(marker: Marker, path: Path | str) -> Marker | None:
    """``marker`` with the modification time that its image file has now; None if it has it already, or never will.

    A file of format 1 stays as it is.
    """
    if marker.source is None or not marker.is_zip:
        return None
    try:
        mtime_ns = os.stat(path).st_mtime_ns
    except OSError:
        return None
    if mtime_ns == marker.source.mtime_ns:
        return None
    return replace(marker, source=replace(marker.source, mtime_ns=mtime_ns))


def made_from_inputs(marker: Marker | None, inputs: Mapping[str, Marker]) -> bool:
    """Is ``marker`` about these upstream images?"""
    return marker is not None and marker.inputs == {kind: upstream.content for kind, upstream in inputs.items()}
