"""Reading fused panoramas: as training samples, and as probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.cache import Artefact, Cache, ImageGroup
from pipeline.cache.freshness import made_from_file
from pipeline.cache.groups import views_from_attributes
from pipeline.core.errors import UserError
from pipeline.data.images import read_image
from pipeline.data.labels import LabelSpace
from pipeline.data.manifests import ImageRecord, Manifest
from pipeline.data.samples import FusedSample
from pipeline.geometry.upsample import upsample


@dataclass(frozen=True)
class CacheReader:
    """A `Reader` of the artefact `fused` that the settings name."""

    manifest: Manifest
    config: Any
    splits: tuple[str, ...] = ()

    @cached_property
    def artefact(self) -> Artefact:
        cache = Cache(self.config.cache, self.manifest.name)
        artefact: Artefact = self.config.artefacts(self.manifest.preprocessing).artefact(cache, "fused")
        return artefact

    @cached_property
    def wanted(self) -> tuple[ImageRecord, ...]:
        """Every image of the splits, fused or not."""
        return self.manifest.select(self.splits)

    def _status(self) -> Iterator[tuple[ImageRecord, str | None]]:
        """Every wanted image, and why it cannot be used as far as the cache can tell (None: it can)."""
        artefacts = self.config.artefacts(self.manifest.preprocessing)
        cache = Cache(self.config.cache, self.manifest.name)
        keys = artefacts.upstream("fused") if self.config.fusion.artefact is None else {}
        upstream = [cache.artefact(kind, key) for kind, key in keys.items()]
        read = [source.markers_of(record.id for record in self.wanted) for source in (self.artefact, *upstream)]
        for record, fused, *above in zip(self.wanted, *read, strict=True):
            inputs = {kind: marker for kind, marker in zip(keys, above, strict=True) if marker is not None}
            if fused is None:
                yield record, f"not fused: {self.artefact.failure_reason(record.id) or 'not computed'}"
            elif not all(made_from_file(marker, record.path) for marker in inputs.values()):
                yield record, f"{record.path} is not the image that was fused; run precompute and fuse again"
            elif any(fused.inputs.get(kind, marker.content) != marker.content for kind, marker in inputs.items()):
                yield record, "was fused from an earlier run of precompute; run fuse again"
            elif not any(marker.source for marker in inputs.values()) and not made_from_file(fused, record.path):
                yield record, f"{record.path} is not the image that was fused; run precompute and fuse again"
            else:
                yield record, None

    @cached_property
    def missing(self) -> dict[str, str]:
        """Why each wanted image that is not among `ids` is not, by id."""
        return {record.id: reason for record, reason in self._status() if reason is not None}

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The wanted images whose ensemble is there, and is that of the image file as it is now."""
        missing = self.missing
        return tuple(record.id for record in self.wanted if record.id not in missing)

    def contents(self) -> Iterator[tuple[str, str]]:
        """Every image of `ids` with the content of its ensemble."""
        for image_id, marker in zip(self.ids, self.artefact.markers_of(self.ids), strict=True):
            if marker is not None:
                yield image_id, marker.content

    def check_any(self) -> None:
        """Raises `UserError`, with the first reason, if there is no image at all."""
        first: tuple[str, str] | None = None
        for record, reason in self._status():
            if reason is None:
                return
            first = first or (record.id, reason)
        image_id, reason = first or ("?", "the splits are empty")
        raise UserError(f"{self.artefact}: none of {len(self.wanted)} panoramas is fused; {image_id!r}: {reason}")

    @cached_property
    def _by_id(self) -> dict[str, ImageRecord]:
        return {record.id: record for record in self.wanted}

    def image(self, image_id: str) -> np.ndarray:
        return read_image(self._by_id[image_id].path, self.manifest.preprocessing)

    def fused(self, image_id: str) -> FusedSample:
        group = self.artefact.read(image_id)
        per_window: dict[str, Any] = {}
        if "window_label" in group:
            names = ("window_label", "window_weight")
            per_window = {"windows": views_from_attributes(group)[0], **{n: group.array(n, ndim=3) for n in names}}
        return FusedSample(
            **per_window,
            label=group.array("label", ndim=2),
            stitched=group.array("stitched", ndim=3),
            gate=group.array("gate", ndim=2),
            weight=group.array("weight", ndim=2),
            boundary=group.array("boundary", ndim=2) if "boundary" in group else None,
        )

    def label(self, image_id: str) -> np.ndarray:
        return self.artefact.read(image_id).array("label", ndim=2)


def stitched_probabilities(group: ImageGroup) -> np.ndarray:
    """`S_TA^w` of a fused panorama at pixels: float32 `(C, H, W)`, sum 1."""
    log_p = group.array("stitched", ndim=3).astype(np.float32)
    height = int(group.attributes["image_size"][0])
    full = upsample(log_p, int(group.attributes["output_stride"]), height, cyclic=True)
    np.exp(full - full.max(axis=0, keepdims=True), out=full)
    return full / full.sum(axis=0, keepdims=True)


def ensemble_probabilities(group: ImageGroup, space: LabelSpace) -> np.ndarray:
    """`E = (1 - g) S + g onehot(label)` of a fused panorama at pixels: float32 `(C, H, W)`.

    Where the label is the ignore index, `E` is `S`.
    """
    ensemble = stitched_probabilities(group)
    label = group.array("label", ndim=2)
    gate = group.array("gate", ndim=2).astype(np.float32) / 255
    gate = np.where(label < space.num_classes, gate, 0)
    ensemble *= 1 - gate
    rows, columns = np.ogrid[: label.shape[0], : label.shape[1]]
    ensemble[np.minimum(label, space.num_classes - 1), rows, columns] += gate
    return ensemble
