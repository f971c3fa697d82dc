"""The results of a run for Python programs: the cached arrays of every panorama, read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.cache import Artefact, ImageGroup
from pipeline.cache.freshness import source_matches
from pipeline.cache.fused_reader import CacheReader, ensemble_areas, ensemble_probabilities
from pipeline.cache.groups import read_mask_sets, views_from_attributes
from pipeline.core.errors import ImageError
from pipeline.core.reading import short_repr
from pipeline.data.expected_miou import expected_miou
from pipeline.data.images import read_image, read_labels
from pipeline.data.labels import LabelSpace
from pipeline.data.manifests import ImageRecord, Manifest
from pipeline.geometry.masks import MaskSet
from pipeline.geometry.views import View


@dataclass(frozen=True)
class Panorama:
    """One panorama of `results`. Every property reads its array anew; `H` and `W` are those of the working image.

    Properties raise `ImageError` with the reason if the panorama is not computed, failed, outdated or damaged, and
    `UserError` if nothing at all was computed with these settings.
    """

    results: Results
    record: ImageRecord

    @property
    def id(self) -> str:
        """The panorama's id: its path below the manifest's root, without suffix."""
        return self.record.id

    @property
    def split(self) -> str:
        """Name of its split."""
        return self.record.split

    @property
    def problem(self) -> str | None:
        """Why the panorama has no ensemble that is up to date; None if it has one."""
        return self.results.missing.get(self.id)

    @property
    def image(self) -> np.ndarray:
        """The working image: RGB uint8 `(H, W, 3)`."""
        return read_image(self.record.path, self.results.manifest.preprocessing)

    @property
    def truth(self) -> np.ndarray | None:
        """The true labels: uint8 `(H, W)`, classes of `results.truth_space`; None without a label file."""
        if self.record.label_path is None:
            return None
        return read_labels(self.record.label_path, self.results.manifest.preprocessing, self.results.truth_space)

    @property
    def masks(self) -> MaskSet:
        """The panorama masks. `len(masks)` counts them, and `masks.mask(k)` is bool `(H, W)`."""
        group = self._group("masks")
        height, width = group.attributes["image_size"]
        return read_mask_sets(group, [(int(height), int(width))])[0]

    @property
    def boundary(self) -> np.ndarray:
        """The boundary of the view masks: uint8 `(H, W)`, 0 or 1."""
        return self._group("masks").read_array("boundary", ndim=2)

    @property
    def views(self) -> tuple[View, ...]:
        """The views that `logits` belong to."""
        return views_from_attributes(self._group("teacher"))[0]

    @property
    def logits(self) -> np.ndarray:
        """The TA's logits: float16 `(V, C, h, w)` at its stride, in the TA's classes."""
        return self._group("teacher").read_array("logits", ndim=4)

    @property
    def stitched(self) -> np.ndarray:
        """Logarithm of the pooled probabilities of all views: float16 `(C, h, W / stride)`."""
        return self._group("fused").read_array("stitched", ndim=3)

    @property
    def probabilities(self) -> np.ndarray:
        """The soft ensemble `E` at full size: float32 `(C, H, W)`, sum 1 over `C`."""
        return ensemble_probabilities(self._group("fused"), self.results.space)

    @property
    def label(self) -> np.ndarray:
        """The pseudo-label: uint8 `(H, W)`, classes of `results.space` or its ignore index."""
        return self._group("fused").read_array("label", ndim=2)

    @property
    def gate(self) -> np.ndarray:
        """The part `g` of the label in the ensemble: float32 `(H, W)`, 0..1."""
        return self._group("fused").read_array("gate", ndim=2).astype(np.float32) / 255

    @property
    def weight(self) -> np.ndarray:
        """The weight `M` in the loss: float32 `(H, W)`, 0..1."""
        return self._group("fused").read_array("weight", ndim=2).astype(np.float32) / 255

    @property
    def refined_boundary(self) -> np.ndarray | None:
        """`B_ref`, the boundary that masks and TA share: uint8 `(H, W)`, 0 or 1; None if the rule reads no masks."""
        group = self._group("fused")
        return group.read_array("boundary", ndim=2) if "boundary" in group else None

    @property
    def signals(self) -> Mapping[str, float]:
        """The figures `l_cc`, `residual` and `weight` of docs/cache-format.md."""
        signals: Mapping[str, float] = self._group("fused").attributes.get("signals", {})
        return signals

    @property
    def expected_areas(self) -> np.ndarray:
        """Expected areas of each class in pixels: float64 `(3, C)`, intersection, predicted and true."""
        return ensemble_areas(self._group("fused"), self.results.space)

    @property
    def expected_miou(self) -> float:
        """Expected mIoU of the ensemble in percent, over the classes that it predicts here. Needs no true labels."""
        return expected_miou(self.expected_areas, predicted_only=True)

    def _group(self, kind: str) -> ImageGroup:
        """Returns the stored group of an artefact `kind`, if it is up to date."""
        artefact = self.results.artefact(kind)
        artefact.attributes()
        if kind == "fused" and self.problem is not None:
            raise ImageError(f"{self.id}: {self.problem}")
        marker = artefact.find_marker(self.id)
        if marker is None:
            raise ImageError(f"{self.id}: {kind}: {artefact.failure_reason(self.id) or 'not computed'}")
        if not source_matches(marker, self.record.path):
            outdated = f"{self.record.path} is not the image that {kind} was computed from; run precompute again"
            raise ImageError(f"{self.id}: {outdated}")
        return artefact.read_group(marker)


@dataclass(frozen=True)
class Results:
    """The panoramas of a data set and what a run's settings made of them; `results[id]` is one `Panorama`.

    Iteration and `len` are over the panoramas with an ensemble that is up to date, in the order of the manifest, and
    `missing` tells the reason of each other one. Nothing is read before it is asked for; markers are read once.

    Attributes:
        manifest: the data set.
        config: the settings.
        chosen: the splits; empty: all.
    """

    manifest: Manifest
    config: Any
    chosen: tuple[str, ...] = ()

    @cached_property
    def _reader(self) -> CacheReader:
        return CacheReader(self.manifest, self.config, self.chosen)

    @cached_property
    def _records(self) -> dict[str, ImageRecord]:
        return {record.id: record for record in self._reader.wanted}

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the panoramas that are up to date.

        Raises `UserError` if nothing was fused with these settings; it names the artefacts of other settings.
        """
        self.artefact("fused").attributes()
        return self._reader.ids

    @property
    def missing(self) -> Mapping[str, str]:
        """The other panoramas: id to reason."""
        return self._reader.missing

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the manifest's splits."""
        return tuple(self.manifest.settings.splits)

    def select(self, *splits: str) -> Results:
        """Returns the results of these splits alone. Raises `UserError` if the manifest has no such split."""
        self.manifest.select(splits)
        return replace(self, chosen=splits)

    @cached_property
    def space(self) -> LabelSpace:
        """The classes of `label`, `stitched` and `probabilities`."""
        space: LabelSpace = self.config.fused_space()
        return space

    @cached_property
    def teacher_space(self) -> LabelSpace:
        """The classes of `logits`."""
        space: LabelSpace = self.config.teacher_space()
        return space

    @property
    def truth_space(self) -> LabelSpace:
        """The classes of `truth`."""
        return self.manifest.label_space

    @cached_property
    def _artefacts(self) -> dict[str, Artefact]:
        return {}

    def artefact(self, kind: str) -> Artefact:
        """Returns the artefact `sam`, `masks`, `teacher` or `fused` of the settings, whether it exists or not."""
        if kind not in self._artefacts:  # a key takes the digest of the TA's weights
            self._artefacts[kind] = self.config.artefact(self.manifest, kind)
        return self._artefacts[kind]

    def expected_miou(self) -> float:
        """Returns the expected mIoU of all panoramas together in percent, as `goodsam evaluate` prints it."""
        return expected_miou(np.sum([self[image_id].expected_areas for image_id in self], axis=0))

    def __getitem__(self, image_id: str) -> Panorama:
        """Returns a panorama of the splits, also a missing one. Raises `KeyError` if there is none of this id."""
        if image_id not in self._records:
            some = ", ".join(map(short_repr, list(self._records)[:3]))
            raise KeyError(f"{self.manifest.path} has no image {image_id!r} in these splits; expected e.g. {some}")
        return Panorama(self, self._records[image_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._reader.reader.paths

    def __repr__(self) -> str:
        splits = ", ".join(self.chosen or self.splits)
        return f"<Results of {self.manifest.name}: {len(self._records)} panoramas of {splits}>"
