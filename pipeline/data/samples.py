"""What a student is trained on: images with pseudo-labels or labels, read one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from pipeline.core.errors import UserError
from pipeline.data.images import read_image, read_labels
from pipeline.data.manifests import ImageRecord, Manifest, load_manifest
from pipeline.geometry.windows import Window


@dataclass(frozen=True)
class FusedSample:
    """The fused pseudo-label of an `H x W` panorama; with `label` alone, an ordinary labelled image."""

    label: np.ndarray
    """uint8 `(H, W)`: class, or the ignore index."""
    stitched: np.ndarray | None = None
    """float16 `(C, h, w)`: log-probabilities of `S̄` at the TA's output stride."""
    gate: np.ndarray | None = None
    """uint8 `(H, W)`: `g · 255`, the share of `onehot(label)` in the ensemble."""
    weight: np.ndarray | None = None
    """uint8 `(H, W)`: `M · 255`."""
    boundary: np.ndarray | None = None
    """uint8 `(H, W)`, 0 or 1: `B_ref`; `None` without one."""
    windows: tuple[Window, ...] = ()
    """Of a rule that works per window: where `E_i` and `M_i` lie."""
    window_label: np.ndarray | None = None
    """uint8 `(V, h, w)`: `E_i`, hard."""
    window_weight: np.ndarray | None = None
    """uint8 `(V, h, w)`: `M_i · 255`."""


@runtime_checkable
class Reader(Protocol):
    """Where images and their pseudo-labels come from; may be asked by two threads at a time."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The images to train on."""

    def image(self, image_id: str) -> np.ndarray:
        """uint8 `(H, W, 3)` RGB."""

    def fused(self, image_id: str) -> FusedSample:
        """The pseudo-label of the same size."""

    def label(self, image_id: str) -> np.ndarray:
        """Its `label` alone."""


@dataclass(frozen=True)
class LabelReader:
    """A `Reader` of labelled images: ground truth in place of pseudo-labels (source-only runs, upper bounds)."""

    manifest: Manifest
    splits: tuple[str, ...] = ()

    @cached_property
    def _records(self) -> dict[str, ImageRecord]:
        return {r.id: r for r in self.manifest.select(self.splits) if r.label_path is not None}

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._records)

    def image(self, image_id: str) -> np.ndarray:
        return read_image(self._records[image_id].path, self.manifest.preprocessing)

    def fused(self, image_id: str) -> FusedSample:
        return FusedSample(label=self.label(image_id))

    def label(self, image_id: str) -> np.ndarray:
        path = self._records[image_id].label_path
        assert path is not None
        return read_labels(path, self.manifest.preprocessing, self.manifest.label_space)


def open_labels(manifest: str, splits: Sequence[str] = ()) -> LabelReader:
    """A `LabelReader` from plain values. Raises `UserError` if nothing is labelled."""
    reader = LabelReader(load_manifest(Path(manifest)), tuple(splits))
    if not reader.ids:
        raise UserError(f"{manifest}: no labelled images in the chosen splits; expected a split with 'labels'")
    return reader
