"""Converts images of format 1 (a folder of files each) into images of format 2 (one zip file each), one at a time.

Each image is read and checked, written, and read again before its folder is removed. Images of both formats are read,
so a run that was killed can be repeated.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from pipeline.cache import Artefact, Cache, Marker
from pipeline.cache.image_group import IDENTITY_ATTRIBUTE, image_identity
from pipeline.core.errors import ImageError
from pipeline.core.progress import Progress, SilentProgress


@dataclass
class Migrated:
    """Counts of the images converted and of those of format 2 already; reasons of failures by artefact and image id."""

    converted: int = 0
    skipped: int = 0
    failures: dict[str, str] = field(default_factory=dict)


def migrate(cache: Cache, progress: Progress = SilentProgress()) -> Migrated:
    """Converts every image of format 1 in the cache. A damaged one is reported and not changed."""
    result = Migrated()
    readable, _ = cache.readable_artefacts()
    for artefact in readable:
        storage, images = artefact.storage, f"{artefact.path}/images"
        artefact.upgrade_format()
        progress.start(f"migrate {artefact.path}", sum(1 for entry in storage.entries(images) if entry.is_folder))
        for marker in artefact.markers(result.failures.__setitem__):
            if marker.is_zip:
                result.skipped += 1
                continue
            try:
                convert(artefact, marker)
                result.converted += 1
            except ImageError as error:
                result.failures[f"{artefact.path} {marker.id}"] = str(error)
            progress.advance(failed=f"{artefact.path} {marker.id}" in result.failures)
        for entry in storage.entries(images):
            if entry.is_folder and next(storage.entries(f"{images}/{entry.name}"), None) is None:  # empty
                storage.delete(f"{images}/{entry.name}")
    return result


def convert(artefact: Artefact, marker: Marker) -> None:
    """Rewrites one image of format 1 as a zip file. `Marker.content` stays, so no downstream image is outdated.

    Raises `ImageError`, and changes nothing, if the image is damaged.
    """
    artefact.verify(marker)
    group = artefact.read_group(marker)
    members = group.members()
    document = json.loads(members["zarr.json"])
    document["attributes"] = {**group.attributes, IDENTITY_ATTRIBUTE: image_identity(marker.id, marker.source)}
    members["zarr.json"] = json.dumps(document, ensure_ascii=False).encode()
    artefact.commit(members, marker.id, marker.source, marker.inputs, marker.content, check=True)
    artefact.storage.delete(artefact.file_path(marker))
