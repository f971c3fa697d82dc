"""SGML, the semantic-guided mask labelling of SAM4UDASS (docs/method.md 3.4, baseline), on panorama masks."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from stages.fuse.rules.base import FULL, Ensemble, FusionInput, FusionRule
from stages.fuse.voting import paste_masks


class Sgml(FusionRule):
    """Takes the majority label of a mask, or the second one if it is a small class, near enough to a large majority.

    Small classes are the label space's things, large ones the rest; masks are pasted largest first [O].
    """

    kind: str = "sgml"
    needs: ClassVar[tuple[str, ...]] = ("teacher", "masks")
    ratio: float = Field(0.2, ge=0, le=1, description="Second count by first count from which on the second may win.")

    def __call__(self, inputs: FusionInput) -> Ensemble:
        counts = inputs.masks.histograms(inputs.labels, inputs.num_classes)
        small = np.array(inputs.things or (False,) * inputs.num_classes)
        order = np.argsort(-counts, axis=1, kind="stable")
        first = order[:, 0]
        second = order[:, min(1, inputs.num_classes - 1)]
        first_count, second_count = (np.take_along_axis(counts, c[:, None], axis=1)[:, 0] for c in (first, second))
        is_near = (second_count > 0) & (second_count >= self.ratio * first_count)
        winner = np.where(is_near & small[second] & ~small[first], second, first)
        label = paste_masks(inputs.masks, winner, inputs.labels)
        full = np.full_like(label, FULL)
        return Ensemble(label, full, full)


COMPONENT = Sgml
