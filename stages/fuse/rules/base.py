"""What a fusion rule gets and gives. A rule is pure: arrays in, arrays out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from pipeline.core.components import Component
from pipeline.geometry.masks import MaskSet
from pipeline.geometry.upsample import most_likely, upsample
from pipeline.geometry.windows import Window

#: The largest value of the stored gate and weight; they stand for value / FULL.
FULL = 255


@dataclass(frozen=True)
class FusionInput:
    """One panorama of `(H, W)` pixels.

    `labels` uint8 `(H, W)`: argmax of the stitched prediction, at pixels. `masks`: panorama masks (None if the
    rule needs none). `window_labels`: for each of `windows` the argmax of the TA's own prediction there, uint8
    `(h, w)`; `window_masks`: that window's mask set. `num_classes` counts the classes of all labels.
    `stitched` float32 `(C, h, w)`: log-probabilities of the stitched prediction on its native grid, of output
    stride `stride`; `log_probabilities`: the same up-sampled to pixels, `(C, H, W)`, not normalised; `boundary`
    bool `(H, W)`: `B_ref` (None without masks); `things`: of every class, whether it is one of countable objects.
    """

    num_classes: int
    labels: np.ndarray
    masks: MaskSet | None = None
    windows: Sequence[Window] = ()
    window_labels: Sequence[np.ndarray] = ()
    window_masks: Sequence[MaskSet] = ()
    stitched: np.ndarray | None = None
    stride: int = 1
    boundary: np.ndarray | None = None
    things: tuple[bool, ...] = ()

    log_probabilities: np.ndarray | None = None

    @classmethod
    def of_stitched(cls, stitched: np.ndarray, stride: int, height: int, things: tuple[bool, ...] = ()) -> FusionInput:
        """The input of a rule that needs no masks, from log-probabilities `(C, h, w)` on the native grid."""
        full = upsample(stitched, stride, height, cyclic=True)
        labels = most_likely(full)
        return cls(len(stitched), labels, stitched=stitched, stride=stride, things=things, log_probabilities=full)

    @cached_property
    def confidence(self) -> np.ndarray:
        """Probability of the most likely class in the stitched prediction, up-sampled, in 1/255: uint8 `(H, W)`."""
        assert self.stitched is not None
        highest = 1 / np.exp(self.stitched - self.stitched.max(axis=0)).sum(axis=0)
        return np.rint(upsample(highest, self.stride, self.labels.shape[0], cyclic=True) * FULL).astype(np.uint8)


@dataclass(frozen=True)
class Ensemble:
    """The ensemble `E = (1 - g) S + g onehot(label)` and its weight map, all uint8 `(H, W)`.

    `label`: class, or 255 (ignore); `gate`: g in 1/255; `weight`: M in 1/255. `more` holds further arrays by
    name, for instance those of single windows.
    """

    label: np.ndarray
    gate: np.ndarray
    weight: np.ndarray
    more: dict[str, np.ndarray] = field(default_factory=dict)


class FusionRule(Component):
    """Turns predictions and masks into an ensemble."""

    #: The artefacts that the rule reads; "teacher" always, "masks" and "sam" (window masks) where it uses them.
    needs: ClassVar[tuple[str, ...]] = ("teacher",)

    @abstractmethod
    def __call__(self, inputs: FusionInput) -> Ensemble:
        """The ensemble of one panorama."""
