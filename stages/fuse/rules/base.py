"""What a fusion rule gets and gives. A rule is pure: arrays in, arrays out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from pipeline.components import Component
from pipeline.masks import MaskSet
from pipeline.views import Window

#: The largest value of the stored gate and weight; they stand for value / FULL.
FULL = 255


@dataclass(frozen=True)
class FusionInput:
    """One panorama of ``(H, W)`` pixels.

    ``labels`` uint8 ``(H, W)``: argmax of the stitched prediction, at pixels. ``masks``: panorama masks (None if the
    rule needs none). ``window_labels``: for each of ``windows`` the argmax of the TA's own prediction there, uint8
    ``(h, w)``; ``window_masks``: that window's mask set. ``num_classes`` counts the classes of all labels.
    """

    num_classes: int
    labels: np.ndarray
    masks: MaskSet | None = None
    windows: Sequence[Window] = ()
    window_labels: Sequence[np.ndarray] = ()
    window_masks: Sequence[MaskSet] = ()


@dataclass(frozen=True)
class Ensemble:
    """The ensemble ``E = (1 - g) S + g onehot(label)`` and its weight map, all uint8 ``(H, W)``.

    ``label``: class, or 255 (ignore); ``gate``: g in 1/255; ``weight``: M in 1/255. ``more`` holds further arrays by
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
