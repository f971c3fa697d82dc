"""Reading what an earlier stage made, one image at a time; what is missing carries its reason downstream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipeline.cache.artefact import Artefact
from pipeline.cache.artefact_spec import ArtefactKeys
from pipeline.cache.cache import Cache
from pipeline.cache.marker import Marker
from pipeline.core.errors import ImageError


def open_artefacts(cache: Cache, artefacts: ArtefactKeys, kinds: Iterable[str]) -> dict[str, Artefact]:
    """The named artefacts, each checked to be there and of this format. Raises `UserError`."""
    opened = {kind: artefacts.artefact(cache, kind) for kind in kinds}
    for artefact in opened.values():
        artefact.attributes()
    return opened


def upstream_markers(image_id: str, upstream: Mapping[str, Artefact]) -> dict[str, Marker]:
    """The markers of one image in every upstream artefact.

    Raises `ImageError` with the upstream failure's reason, or saying what is not computed, or what was made from
    another version of the image than the rest (a run of stage one on a replaced image that has not come to its end).
    """
    markers = {}
    for kind, artefact in upstream.items():
        marker = artefact.marker(image_id)
        if marker is None:
            raise ImageError(f"{kind}: {artefact.failure_reason(image_id) or f'not computed ({artefact.path})'}")
        markers[kind] = marker
    _check_one_version(markers)
    return markers


def _check_one_version(markers: Mapping[str, Marker]) -> None:
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
