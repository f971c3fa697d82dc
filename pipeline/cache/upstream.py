"""Opens the artefacts of earlier stages, and finds the markers of one image in all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipeline.cache.artefact import Artefact
from pipeline.cache.artefact_spec import ArtefactKeys
from pipeline.cache.cache import Cache
from pipeline.cache.marker import Marker
from pipeline.core.errors import ImageError


def open_artefacts(cache: Cache, artefacts: ArtefactKeys, kinds: Iterable[str]) -> dict[str, Artefact]:
    """Returns the artefacts of these kinds. Raises `UserError` if one is missing, damaged or of another format."""
    opened = {kind: artefacts.artefact(cache, kind) for kind in kinds}
    for artefact in opened.values():
        artefact.attributes()
    return opened


def upstream_markers(image_id: str, upstream: Mapping[str, Artefact]) -> dict[str, Marker]:
    """Returns the marker of an image in every upstream artefact.

    Raises:
        ImageError: the image failed or is not computed in one of them, or they hold different versions of it (after a
            run that did not finish).
    """
    markers = {}
    for kind, artefact in upstream.items():
        marker = artefact.find_marker(image_id)
        if marker is None:
            raise ImageError(f"{kind}: {artefact.failure_reason(image_id) or f'not computed ({artefact.path})'}")
        markers[kind] = marker
    _check_versions(markers)
    return markers


def _check_versions(markers: Mapping[str, Marker]) -> None:
    digests = {kind: marker.source.sha256 for kind, marker in markers.items() if marker.source is not None}
    if len(set(digests.values())) > 1:
        raise ImageError(
            f"{' and '.join(digests)} were made from different versions of the image; run precompute again"
        )
    for kind, marker in markers.items():
        for other in set(marker.inputs) & set(markers):
            if marker.inputs[other] != markers[other].content:
                raise ImageError(
                    f"{kind}: was made from another version of {other} than the cache holds; run precompute again"
                )
