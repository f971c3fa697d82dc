"""SEPL, SAM-enhanced pseudo-labels (docs/method.md 3.4, baseline), on panorama masks."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from stages.fuse.rules.base import FULL, Ensemble, FusionInput, FusionRule
from stages.fuse.voting import paste_masks

_IGNORE = 255


class Sepl(FusionRule):
    """Assigns each mask to the first class that takes it; pixels of masks that no class takes are ignored.

    A class takes a mask if more than `share` of the mask is of that class, or if the mask holds at least `cover` of the
    class. Pixels in no mask keep the TA. Classes in the order of labels, and masks pasted largest first, are ours [O].
    """

    kind: str = "sepl"
    needs: ClassVar[tuple[str, ...]] = ("teacher", "masks")
    share: float = Field(0.5, ge=0, le=1, description="A class takes a mask if it is more than this part of the mask.")
    cover: float = Field(0.85, ge=0, le=1, description="A class takes a mask that holds at least this part of it.")

    def __call__(self, inputs: FusionInput) -> Ensemble:
        counts = inputs.masks.histograms(inputs.labels, inputs.num_classes)
        class_area = np.bincount(inputs.labels.ravel(), minlength=256)[: inputs.num_classes]
        area = inputs.masks.table["area"]
        takes = (counts > self.share * area[:, None]) | ((counts >= self.cover * class_area) & (counts > 0))
        is_taken = np.asarray(takes.any(axis=1))
        background = np.where(inputs.masks.covered(), np.uint8(_IGNORE), inputs.labels)
        label = paste_masks(inputs.masks.select(is_taken), takes[is_taken].argmax(axis=1), background)
        weight = np.where(label == _IGNORE, 0, FULL).astype(np.uint8)
        return Ensemble(label, weight, weight)


COMPONENT = Sepl
