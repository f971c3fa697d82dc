"""Semantic-Segment-Anything's vote on panorama masks (docs/method.md 3.4, baseline)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from stages.fuse.rules.base import FULL, Ensemble, FusionInput, FusionRule
from stages.fuse.voting import majority, paste_masks


class Ssa(FusionRule):
    """Pastes the majority labels of masks, largest mask first; pixels in no mask keep the TA."""

    kind: str = "ssa"
    needs: ClassVar[tuple[str, ...]] = ("teacher", "masks")

    def __call__(self, inputs: FusionInput) -> Ensemble:
        votes = majority(inputs.masks, inputs.labels, inputs.num_classes)
        label = paste_masks(inputs.masks, votes.winner, inputs.labels)
        full = np.full_like(label, FULL)
        return Ensemble(label, full, full)


COMPONENT = Ssa
