"""The base class of fusion rules, their input and their output. Rules are pure functions on arrays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from pipeline.core.components import Component
from pipeline.geometry.masks import MaskSet, from_crops
from pipeline.geometry.upsample import most_likely, upsample
from pipeline.geometry.windows import Window

#: Stored value of a gate or weight of 1.
FULL = 255


@dataclass(frozen=True)
class FusionInput:
    """The input of a rule for one panorama of `(H, W)` pixels.

    Attributes:
        num_classes: number of classes of all labels.
        labels: argmax of the stitched prediction at pixels, uint8 `(H, W)`.
        masks: panorama masks; empty if the rule needs none.
        windows: the TA's windows; empty if the rule needs none.
        window_labels: argmax of the TA's prediction in each window, uint8 `(h, w)`.
        window_masks: the masks of each window.
        stitched: log-probabilities of the stitched prediction on its native grid, float32 `(C, h, w)`.
        stride: output stride of that grid.
        boundary: `B_ref`, bool `(H, W)`; None without masks.
        things: whether each class consists of countable objects.
        log_probabilities: `stitched` up-sampled to pixels, `(C, H, W)`, not normalised.
    """

    num_classes: int
    labels: np.ndarray
    masks: MaskSet
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
        """Returns the input of a rule that needs no masks, from log-probabilities `(C, h, w)` on the native grid."""
        full = upsample(stitched, stride, height, cyclic=True)
        inputs = cls(len(stitched), most_likely(full), from_crops([], *full.shape[1:]))
        return replace(inputs, stitched=stitched, stride=stride, things=things, log_probabilities=full)

    @cached_property
    def confidence(self) -> np.ndarray:
        """Highest probability of the stitched prediction, up-sampled, in 1/255: uint8 `(H, W)`."""
        assert self.stitched is not None
        highest = 1 / np.exp(self.stitched - self.stitched.max(axis=0)).sum(axis=0)
        return np.rint(upsample(highest, self.stride, self.labels.shape[0], cyclic=True) * FULL).astype(np.uint8)


@dataclass(frozen=True)
class Ensemble:
    """The ensemble `E = (1 - g) S + g onehot(label)` and its weight map, all uint8 `(H, W)`.

    Attributes:
        label: class, or 255 (ignore).
        gate: mixing weight g in 1/255.
        weight: weight map M in 1/255.
        extra_arrays: further arrays to be stored, by name.
    """

    label: np.ndarray
    gate: np.ndarray
    weight: np.ndarray
    extra_arrays: dict[str, np.ndarray] = field(default_factory=dict)


class FusionRule(Component):
    """Computes an ensemble from predictions and masks."""

    #: Artefacts that the rule reads: "teacher", and "masks" and "sam" (window masks) if it uses them.
    needs: ClassVar[tuple[str, ...]] = ("teacher",)

    @abstractmethod
    def __call__(self, inputs: FusionInput) -> Ensemble:
        """Returns the ensemble of one panorama."""
