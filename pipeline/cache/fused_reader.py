"""Selects the fused panoramas that are up to date, and reads them as training samples or as probabilities."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache import Artefact, Cache, ImageGroup
from pipeline.cache.freshness import source_matches
from pipeline.cache.groups import views_from_attributes
from pipeline.core.errors import ImageError, UserError
from pipeline.data.expected_miou import expected_areas
from pipeline.data.images import ImagePreprocessing, read_image
from pipeline.data.labels import LabelSpace
from pipeline.data.manifests import ImageRecord, Manifest
from pipeline.data.samples import FusedSample
from pipeline.geometry.upsample import upsample


@dataclass(frozen=True)
class FusedReader:
    """A `Reader` of fused panoramas, made of plain values: loader processes parse no settings and list no markers.

    Attributes:
        cache: folder or URL of the cache.
        dataset: name of the data set, its folder in the cache.
        key: key of the artefact `fused`.
        paths: the image file of every panorama, by id.
        preprocessing: crop and size of the images.
    """

    cache: str
    dataset: str
    key: str
    paths: Mapping[str, Path]
    preprocessing: ImagePreprocessing

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self.paths)

    @property
    def _artefact(self) -> Artefact:
        return _open_fused(self.cache, self.dataset, self.key, os.getpid())

    def image(self, image_id: str) -> np.ndarray:
        return read_image(self.paths[image_id], self.preprocessing)

    def fused(self, image_id: str) -> FusedSample:
        group = self._artefact.read(image_id)
        arrays: dict[str, Any] = {"boundary": group.read_array("boundary", ndim=2) if "boundary" in group else None}
        if "window_label" in group:
            arrays["windows"] = views_from_attributes(group)[0]
            arrays |= {name: group.read_array(name, ndim=3) for name in ("window_label", "window_weight")}
        return FusedSample(
            label=group.read_array("label", ndim=2),
            stitched=group.read_array("stitched", ndim=3),
            gate=group.read_array("gate", ndim=2),
            weight=group.read_array("weight", ndim=2),
            **arrays,
        )

    def label(self, image_id: str) -> np.ndarray:
        return self._artefact.read(image_id).read_array("label", ndim=2)


@lru_cache(maxsize=8)
def _open_fused(cache: str, dataset: str, key: str, process_id: int) -> Artefact:
    """Opens the artefact once per process: file systems of object stores do not survive a fork."""
    return Cache(cache, dataset).artefact("fused", key)


@dataclass(frozen=True)
class CacheReader:
    """The images of the splits (empty: of all) that are fused under the settings of a run, as a `Reader`."""

    manifest: Manifest
    config: Any
    splits: tuple[str, ...] = ()

    @cached_property
    def artefact(self) -> Artefact:
        """The artefact `fused` of the settings."""
        artefact: Artefact = self.config.artefacts(self.manifest.preprocessing).artefact(self._cache, "fused")
        return artefact

    @property
    def _cache(self) -> Cache:
        return Cache(self.config.cache, self.manifest.name)

    @cached_property
    def wanted(self) -> tuple[ImageRecord, ...]:
        """Every image of the splits, fused or not."""
        return self.manifest.select(self.splits)

    @cached_property
    def missing(self) -> dict[str, str]:
        """The wanted images that cannot be used: id to reason."""
        artefacts, cache = self.config.artefacts(self.manifest.preprocessing), self._cache
        keys = artefacts.upstream("fused") if self.config.fusion.artefact is None else {}
        sources = [self.artefact, *(cache.artefact(kind, key) for kind, key in keys.items())]
        markers = [source.find_markers(record.id for record in self.wanted) for source in sources]
        missing = {}
        for record, fused, *upstream in zip(self.wanted, *markers, strict=True):
            inputs = {kind: marker for kind, marker in zip(keys, upstream, strict=True) if marker is not None}
            has_source = any(marker.source for marker in inputs.values())
            compared = inputs.values() if has_source else [*inputs.values(), fused]
            if fused is None:
                missing[record.id] = f"not fused: {self.artefact.failure_reason(record.id) or 'not computed'}"
            elif not all(source_matches(marker, record.path) for marker in compared):
                missing[record.id] = f"{record.path} is not the image that was fused; run precompute and fuse again"
            elif any(fused.inputs.get(kind, marker.content) != marker.content for kind, marker in inputs.items()):
                missing[record.id] = "was fused from an earlier run of precompute; run fuse again"
        return missing

    @cached_property
    def reader(self) -> FusedReader:
        """Reads the wanted images that can be used."""
        paths = {record.id: record.path for record in self.wanted if record.id not in self.missing}
        return FusedReader(self.config.cache, self.manifest.name, self.artefact.key, paths, self.manifest.preprocessing)

    @property
    def ids(self) -> tuple[str, ...]:
        """The wanted images with an ensemble that was made from the image file and the upstream images of now."""
        return self.reader.ids

    def contents(self) -> Iterator[tuple[str, str]]:
        """Yields every image of `ids` with the content hash of its ensemble."""
        for image_id, marker in zip(self.ids, self.artefact.find_markers(self.ids), strict=True):
            if marker is not None:
                yield image_id, marker.content

    def check_any(self) -> None:
        """Raises `UserError`, with the reason of the first image, if no wanted image can be used."""
        if not self.ids:
            image_id, reason = next(iter(self.missing.items()), ("?", "the splits are empty"))
            raise UserError(f"{self.artefact}: none of {len(self.wanted)} panoramas is fused; {image_id!r}: {reason}")

    def check(self, image_id: str) -> None:
        """Raises `ImageError` with the reason if a wanted image cannot be used."""
        if image_id in self.missing:
            raise ImageError(self.missing[image_id])

    def image(self, image_id: str) -> np.ndarray:
        return self.reader.image(image_id)

    def fused(self, image_id: str) -> FusedSample:
        return self.reader.fused(image_id)

    def label(self, image_id: str) -> np.ndarray:
        return self.reader.label(image_id)


def stitched_probabilities(group: ImageGroup) -> np.ndarray:
    """Returns `S_TA^w` of a fused panorama at full size: float32 `(C, H, W)`, sum 1 over `C`."""
    log_p = group.read_array("stitched", ndim=3).astype(np.float32)
    height = int(group.attributes["image_size"][0])
    full = upsample(log_p, int(group.attributes["output_stride"]), height, cyclic=True)
    np.exp(full - full.max(axis=0, keepdims=True), out=full)
    return full / full.sum(axis=0, keepdims=True)


def ensemble_probabilities(group: ImageGroup, space: LabelSpace) -> np.ndarray:
    """Returns `E = (1 - g) S + g onehot(label)` of a fused panorama at full size: float32 `(C, H, W)`.

    `E` is `S` where the label is the ignore index.
    """
    return _add_gate(stitched_probabilities(group), group, space)


def certainty_probabilities(group: ImageGroup, space: LabelSpace) -> np.ndarray:
    """Returns the probabilities that tell how certain the labels of a fused panorama are: float32 `(C, H, W)`.

    They are those of the ensemble, and of the stitched prediction where the label is a hard vote (`g = 1`): a vote
    alone does not say how certain it is.
    """
    stitched = stitched_probabilities(group)
    is_hard = group.read_array("gate", ndim=2) == 255
    return np.where(is_hard, stitched, _add_gate(stitched.copy(), group, space))


def ensemble_areas(group: ImageGroup, space: LabelSpace) -> np.ndarray:
    """Returns the `expected_areas` of the ensemble's classes in a fused panorama: float64 `(3, C)`.

    The certainty is that of `certainty_probabilities`.
    """
    stitched = stitched_probabilities(group)
    ensemble = _add_gate(stitched.copy(), group, space)
    is_hard = group.read_array("gate", ndim=2) == 255
    return expected_areas(np.where(is_hard, stitched, ensemble), ensemble.argmax(axis=0))


def _add_gate(ensemble: np.ndarray, group: ImageGroup, space: LabelSpace) -> np.ndarray:
    """Turns the stitched probabilities into those of the ensemble, in place."""
    label = group.read_array("label", ndim=2)
    gate = group.read_array("gate", ndim=2).astype(np.float32) / 255
    gate = np.where(label < space.num_classes, gate, 0)
    ensemble *= 1 - gate
    rows, columns = np.ogrid[: label.shape[0], : label.shape[1]]
    ensemble[np.minimum(label, space.num_classes - 1), rows, columns] += gate
    return ensemble
