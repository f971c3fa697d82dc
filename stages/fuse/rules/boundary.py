"""The stitched prediction with its class boundaries moved onto `B_ref`, without fusion (docs/method.md 3.2)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from stages.fuse.boundary import inpaint_boundary_band
from stages.fuse.regions import find_regions
from stages.fuse.rules.base import FULL, Ensemble, FusionInput, FusionRule
from stages.fuse.soft import encode_ensemble


class Boundary(FusionRule):
    """Inpaints a band around `B_ref` from the inside of each region of the masks [O]."""

    kind: str = "boundary"
    needs: ClassVar[tuple[str, ...]] = ("teacher", "masks")
    radius: int | None = Field(
        None, ge=1, description="Half width of the band in pixels; null: the TA's output stride."
    )

    def __call__(self, inputs: FusionInput) -> Ensemble:
        assert inputs.log_probabilities is not None
        assert inputs.boundary is not None
        stitched = inputs.log_probabilities
        region_ids = find_regions(inputs.masks).index
        inpainted = inpaint_boundary_band(stitched, region_ids, inputs.boundary, self.radius or inputs.stride)
        result = encode_ensemble(stitched, inpainted)
        return Ensemble(result.label, result.gate, np.full_like(result.label, FULL))


COMPONENT = Boundary
