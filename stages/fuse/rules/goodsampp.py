"""CTCFv2, the fusion of GoodSAM++ (docs/method.md 3.3), on panorama masks."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from stages.fuse.regions import find_regions
from stages.fuse.rules.base import FULL, Ensemble, FusionInput, FusionRule
from stages.fuse.voting import paste_masks


class GoodSamPp(FusionRule):
    """Groups masks in area levels, with votes weighted by a weight map and a threshold per level [P].

    The weight map is the TA's confidence, a level's threshold is the mean `Y_max` of its masks in this image, masks are
    pasted largest first, and pixels in no mask keep the TA with weight 1 [O]. So are the areas between the levels.
    """

    kind: str = "goodsampp"
    needs: ClassVar[tuple[str, ...]] = ("teacher", "masks")
    medium: float = Field(0.001, ge=0, le=1, description="Area of the smallest medium mask, part of all pixels.")
    large: float = Field(0.01, ge=0, le=1, description="Area of the smallest large mask, part of all pixels.")

    @model_validator(mode="after")
    def _ordered(self) -> GoodSamPp:
        if self.medium > self.large:
            raise ValueError(f"medium {self.medium} is above large {self.large}; expected medium at most large")
        return self

    def __call__(self, inputs: FusionInput) -> Ensemble:
        regions = find_regions(inputs.masks)
        classes = inputs.num_classes + 1  # the last one counts ignored pixels
        index = regions.index.astype(np.int64) * classes + np.minimum(inputs.labels, inputs.num_classes)
        region_votes = np.bincount(index.ravel(), inputs.confidence.ravel(), minlength=len(regions.masks) * classes)
        votes = regions.sum_over_regions(region_votes.reshape(-1, classes))
        winner = votes[:, :-1].argmax(axis=1)
        highest = votes[np.arange(len(votes)), winner] / np.maximum(votes.sum(axis=1), 1)
        area = inputs.masks.table["area"] / inputs.labels.size
        level = (area >= self.medium).astype(np.int64) + (area >= self.large)
        trusted = at_least_the_mean(highest, level)
        label = paste_masks(inputs.masks, winner, inputs.labels)
        full = np.full_like(label, FULL)
        return Ensemble(label, full, paste_masks(inputs.masks, np.where(trusted, FULL, 0), full))


def at_least_the_mean(highest: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Marks the values of `highest` `(K,)` that reach the mean of their `level` `(K,)`: bool `(K,)`.

    They are compared in whole numbers, so that the order of the masks does not matter, with a tolerance of 1 step.
    """
    steps = np.rint(highest * (1 << 30)).astype(np.int64)
    reached = np.zeros(len(steps), dtype=bool)
    for members in (level == k for k in np.unique(level)):
        reached[members] = (steps[members] + 1) * np.count_nonzero(members) >= steps[members].sum()
    return reached


COMPONENT = GoodSamPp
