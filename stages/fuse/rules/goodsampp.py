"""CTCFv2, the fusion of GoodSAM++ (docs/method.md 3.3), on panorama masks."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from stages.fuse.regions import find_regions
from stages.fuse.rules.base import FULL, Ensemble, FusionInput, FusionRule
from stages.fuse.voting import paste_masks


class GoodSamPp(FusionRule):
    """Masks in area levels, votes weighted by a weight map, a threshold for each level (paper).

    Ours: the weight map is the TA's confidence; a level's threshold is the mean `Y_max` of its masks in this image;
    the areas between the levels; large masks first, small ones over them; pixels in no mask keep the TA with weight 1.
    """

    kind: str = "goodsampp"
    needs: ClassVar[tuple[str, ...]] = ("teacher", "masks")
    medium: float = Field(0.001, ge=0, le=1, description="Area of the smallest medium mask, in parts of the panorama.")
    large: float = Field(0.01, ge=0, le=1, description="Area of the smallest large mask, in parts of the panorama.")

    @model_validator(mode="after")
    def _ordered(self) -> GoodSamPp:
        if self.medium > self.large:
            raise ValueError(f"medium {self.medium} is above large {self.large}; expected areas that rise")
        return self

    def __call__(self, inputs: FusionInput) -> Ensemble:
        assert inputs.masks is not None
        regions = find_regions(inputs.masks)
        classes = inputs.num_classes + 1  # the last one counts ignored pixels
        place = regions.index.astype(np.int64) * classes + np.minimum(inputs.labels, inputs.num_classes)
        by_region = np.bincount(place.ravel(), inputs.confidence.ravel(), minlength=len(regions.masks) * classes)
        votes = regions.sum_over_regions(by_region.reshape(-1, classes))
        winner = votes[:, :-1].argmax(axis=1)
        highest = votes[np.arange(len(votes)), winner] / np.maximum(votes.sum(axis=1), 1)
        area = inputs.masks.table["area"] / inputs.labels.size
        level = (area >= self.medium).astype(np.int64) + (area >= self.large)
        trusted = at_least_the_mean(highest, level)
        label = paste_masks(inputs.masks, winner, inputs.labels)
        full = np.full_like(label, FULL)
        return Ensemble(label, full, paste_masks(inputs.masks, np.where(trusted, FULL, 0), full))


def at_least_the_mean(highest: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Which of `highest` `(K,)` reach the mean of their `level` `(K,)`: bool `(K,)`.

    Compared in whole numbers, so that the order of the masks does not matter; the last digit is forgiven.
    """
    steps = np.rint(highest * (1 << 30)).astype(np.int64)
    reached = np.zeros(len(steps), dtype=bool)
    for own in (level == k for k in np.unique(level)):
        reached[own] = (steps[own] + 1) * np.count_nonzero(own) >= steps[own].sum()
    return reached


COMPONENT = GoodSamPp
