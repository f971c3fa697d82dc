"""The stitched prediction with its class boundaries moved onto `B_ref`; no fusion yet (docs/method.md 3.2)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from stages.fuse.boundary import inpaint_boundary_band
from stages.fuse.regions import find_regions
from stages.fuse.rules.base import FULL, Ensemble, FusionInput, FusionRule
from stages.fuse.soft import encode_ensemble


class Boundary(FusionRule):
    """Inside a band round `B_ref` the prediction is filled anew from the inside of each SAM cell (ours)."""

    kind: str = "boundary"
    needs: ClassVar[tuple[str, ...]] = ("teacher", "masks")
    radius: int | None = Field(
        None, ge=1, description="Half width of the band in pixels; null: the TA's output stride."
    )

    def __call__(self, inputs: FusionInput) -> Ensemble:
        assert inputs.masks is not None
        assert inputs.log_probabilities is not None
        assert inputs.boundary is not None
        stitched = inputs.log_probabilities
        cells = find_regions(inputs.masks).index
        snapped = inpaint_boundary_band(stitched, cells, inputs.boundary, self.radius or inputs.stride)
        result = encode_ensemble(stitched, snapped)
        return Ensemble(result.label, result.gate, np.full_like(result.label, FULL))


COMPONENT = Boundary
