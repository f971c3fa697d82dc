"""SEPL, SAM-enhanced pseudo-labels (docs/method.md 3.4, baseline), on panorama masks."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from stages.fuse.rules.base import FULL, Ensemble, FusionInput, FusionRule
from stages.fuse.voting import paste_masks

_IGNORE = 255


class Sepl(FusionRule):
    """A mask goes to the first class of which it holds enough; the other masks' pixels are ignored.

    A class takes a mask that no earlier class took if more than `share` of the mask is that class, or if the mask
    holds at least `cover` of the class. Pixels in no mask keep the TA. Ours: classes in the order of their labels;
    large masks first, small ones over them.
    """

    kind: str = "sepl"
    needs: ClassVar[tuple[str, ...]] = ("teacher", "masks")
    share: float = Field(0.5, ge=0, le=1, description="Part of a mask, above which a class takes it.")
    cover: float = Field(0.85, ge=0, le=1, description="Part of a class, from which on a mask goes to it.")

    def __call__(self, inputs: FusionInput) -> Ensemble:
        assert inputs.masks is not None
        counts = inputs.masks.histograms(inputs.labels, inputs.num_classes)
        whole = np.bincount(inputs.labels.ravel(), minlength=256)[: inputs.num_classes]
        area = inputs.masks.table["area"]
        takes = (counts > self.share * area[:, None]) | ((counts >= self.cover * whole) & (counts > 0))
        used = np.asarray(takes.any(axis=1))
        left = np.where(inputs.masks.covered(), np.uint8(_IGNORE), inputs.labels)
        label = paste_masks(inputs.masks.select(used), takes[used].argmax(axis=1), left)
        weight = np.where(label == _IGNORE, 0, FULL).astype(np.uint8)
        return Ensemble(label, weight, weight)


COMPONENT = Sepl
