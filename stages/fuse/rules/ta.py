"""The TA's stitched prediction alone; reads no masks (docs/method.md 3.4, baseline)."""

from __future__ import annotations

import numpy as np

from stages.fuse.rules.base import FULL, Ensemble, FusionInput, FusionRule


class Ta(FusionRule):
    """Returns the stitched prediction: gate 0, weight 1 everywhere."""

    kind: str = "ta"

    def __call__(self, inputs: FusionInput) -> Ensemble:
        labels = inputs.labels
        return Ensemble(labels, np.zeros_like(labels), np.full_like(labels, FULL))


COMPONENT = Ta
