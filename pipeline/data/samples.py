"""The samples that a student is trained on: images with pseudo-labels or with labels, read one at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from pipeline.core.errors import UserError
from pipeline.data.images import read_image, read_labels
from pipeline.data.manifests import Manifest
from pipeline.geometry.windows import Window


@dataclass(frozen=True)
class FusedSample:
    """The fused pseudo-label of an `H x W` panorama; with `label` alone, the label of an ordinary image.

    Attributes:
        label: uint8 `(H, W)`, the class or the ignore index.
        stitched: float16 `(C, h, w)`, log-probabilities of `S̄` at the TA's output stride.
        gate: uint8 `(H, W)`, `g · 255`, the share of `onehot(label)` in the ensemble.
        weight: uint8 `(H, W)`, `M · 255`.
        boundary: uint8 `(H, W)`, 0 or 1, `B_ref`.
        windows: the windows of a rule that labels each window by itself; empty for other rules.
        window_label: uint8 `(V, h, w)`, `E_i` as labels.
        window_weight: uint8 `(V, h, w)`, `M_i · 255`.
    """

    label: np.ndarray
    stitched: np.ndarray | None = None
    gate: np.ndarray | None = None
    weight: np.ndarray | None = None
    boundary: np.ndarray | None = None
    windows: tuple[Window, ...] = ()
    window_label: np.ndarray | None = None
    window_weight: np.ndarray | None = None


@runtime_checkable
class Reader(Protocol):
    """Reads images and their pseudo-labels. It is picklable, and two threads may call it at a time."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The images to train on."""

    def image(self, image_id: str) -> np.ndarray:
        """Returns the image, uint8 `(H, W, 3)` RGB."""

    def fused(self, image_id: str) -> FusedSample:
        """Returns the pseudo-label, of the size of the image."""

    def label(self, image_id: str) -> np.ndarray:
        """Returns the `label` of the pseudo-label alone."""


@dataclass(frozen=True)
class LabelReader:
    """A `Reader` of labelled images: ground truth in place of pseudo-labels, for source-only runs and upper bounds.

    Without `splits`, it uses all of the manifest. Raises `UserError` if no image of them has labels.
    """

    manifest: Manifest
    splits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self._paths:
            raise UserError(f"{self.manifest.path}: the chosen splits have no labels; expected a split with 'labels'")

    @cached_property
    def _paths(self) -> dict[str, tuple[Path, Path]]:
        """Image file and label file by id."""
        records = self.manifest.select(self.splits)
        return {record.id: (record.path, record.label_path) for record in records if record.label_path is not None}

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._paths)

    def image(self, image_id: str) -> np.ndarray:
        return read_image(self._paths[image_id][0], self.manifest.preprocessing)

    def fused(self, image_id: str) -> FusedSample:
        return FusedSample(label=self.label(image_id))

    def label(self, image_id: str) -> np.ndarray:
        return read_labels(self._paths[image_id][1], self.manifest.preprocessing, self.manifest.label_space)
