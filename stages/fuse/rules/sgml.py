"""SGML, the semantic-guided mask labelling of SAM4UDASS (docs/method.md 3.4, baseline), on panorama masks."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from stages.fuse.rules.base import FULL, Ensemble, FusionInput, FusionRule
from stages.fuse.voting import paste_masks


class Sgml(FusionRule):
    """The majority's label, or the second one's if that is a small class behind a large one and near enough.

    Ours: small classes are the label space's things, large ones the rest; large masks first, small ones over them.
    """

    kind: str = "sgml"
    needs: ClassVar[tuple[str, ...]] = ("teacher", "masks")
    ratio: float = Field(0.2, ge=0, le=1, description="Second count by first count, from which on the second may win.")

    def __call__(self, inputs: FusionInput) -> Ensemble:
        assert inputs.masks is not None
        counts = inputs.masks.histograms(inputs.labels, inputs.num_classes)
        small = np.array(inputs.things or (False,) * inputs.num_classes)
        order = np.argsort(-counts, axis=1, kind="stable")
        first = order[:, 0]
        second = order[:, min(1, inputs.num_classes - 1)]
        every = np.arange(len(counts))
        near = (counts[every, second] > 0) & (counts[every, second] >= self.ratio * counts[every, first])
        winner = np.where(near & small[second] & ~small[first], second, first)
        label = paste_masks(inputs.masks, winner, inputs.labels)
        full = np.full_like(label, FULL)
        return Ensemble(label, full, full)


COMPONENT = Sgml
