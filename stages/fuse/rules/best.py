"""Our own rule: soft votes of panorama masks, mixed with the stitched prediction (docs/method.md 3.3, ours)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from stages.fuse.boundary import inpaint_boundary_band
from stages.fuse.regions import Regions, distance_to_boundary, find_regions, small_unmasked_components, soft_votes
from stages.fuse.rules.base import Ensemble, FusionInput, FusionRule
from stages.fuse.soft import certainty, encode_ensemble, probabilities, ramp

#: Weights and logarithms are rounded to 1 / _STEPS before they are summed, so that their order does not matter.
_STEPS = 1 << 16

#: Rows that are fused at a time.
_ROWS = 8


class SoftMaskVote(FusionRule):
    """Each mask's class distribution, pulled together with the stitched prediction by a product of powers (ours).

    Inside a mask the stitched probabilities are averaged, pixels weighted by how sure the TA is and by how far inside
    they lie, because the TA bleeds over edges. A pixel's fused prediction is `S^(1-b)` times the geometric mean of
    its masks' averages to the power `b`; `b` is `strength` times SAM's own score of the masks, 0 in no mask. So a
    clear mask overrules single pixels, and a mixed or doubtful one says little. A compact and confident TA region
    without a mask of its own, one that lies at least half inside it, is left alone (a pole or a sign on a facade). The
    weight map rises with the fused probability of the label from 0 at `theta` to 1.
    """

    kind: str = "best"
    needs: ClassVar[tuple[str, ...]] = ("teacher", "masks")
    strength: float = Field(0.65, ge=0, le=1, description="Power of the masks' averages where SAM's score is 1.")
    floor: float = Field(0.01, gt=0, lt=1, description="Smallest probability that a mask gives to a class.")
    deepest: int = Field(4, ge=1, description="Depth in pixels from which on a pixel's vote counts fully.")
    island: float = Field(0.002, ge=0, le=1, description="Largest protected TA region, in parts of the panorama.")
    island_confidence: float = Field(0.7, ge=0, le=1, description="Lowest mean probability of a protected TA region.")
    island_mask: float = Field(0.5, gt=0, le=1, description="Part of a mask inside a TA region that makes it its own.")
    snap_radius: int = Field(0, ge=0, description="Pixels round B_ref that are filled from inside before; 0: none.")
    theta: float = Field(0.5, ge=0, lt=1, description="Fused probability from which on a label has weight.")

    def __call__(self, inputs: FusionInput) -> Ensemble:
        assert inputs.masks is not None
        assert inputs.log_probabilities is not None
        stitched = inputs.log_probabilities
        regions = find_regions(inputs.masks)
        logs, power = self.mask_votes(inputs, regions)
        power_at = power[regions.index]
        if self.island:
            power_at[self.islands(inputs, regions)] = 0
        own = stitched
        if self.snap_radius and inputs.boundary is not None:
            own = inpaint_boundary_band(stitched, regions.index, inputs.boundary, self.snap_radius)
        said = np.ascontiguousarray(logs.T)
        label, gate, weight = (np.empty_like(inputs.labels) for _ in range(3))
        # a few rows at a time, which stay in the processor's cache
        for first in range(0, len(label), _ROWS):
            rows = slice(first, first + _ROWS)
            fused = np.take(said, regions.index[rows], axis=1)
            fused *= power_at[rows]
            fused += own[:, rows] * (1 - power_at[rows])
            result = encode_ensemble(stitched[:, rows], fused)
            label[rows], gate[rows], weight[rows] = result.label, result.gate, ramp(result.probability, self.theta)
        return Ensemble(label, gate, weight)

    def mask_votes(self, inputs: FusionInput, regions: Regions) -> tuple[np.ndarray, np.ndarray]:
        """What the masks of a region say, as log-probabilities float32 `(R, C)`, and its power, float32 `(R,)`."""
        assert inputs.stitched is not None
        assert inputs.masks is not None
        votes = probabilities(inputs.stitched)
        votes = votes * certainty(votes)
        total = regions.sum_over_regions(soft_votes(regions, distance_to_boundary(regions.index, self.deepest), votes))
        share = total / np.maximum(total.sum(axis=1, keepdims=True), 1e-12)
        logs = np.rint(np.log(np.maximum(share, self.floor)) * _STEPS)
        table = inputs.masks.table
        known = [np.nan_to_num(table[name].astype(np.float64), nan=1) for name in ("predicted_iou", "stability_score")]
        score = np.rint((known[0] * known[1]).clip(0, 1) * 255) + 1
        total_score = np.maximum(regions.sum_over_masks(score), 1)
        said = regions.sum_over_masks(logs * score[:, None]) / total_score[:, None] / _STEPS
        power = self.strength * regions.sum_over_masks(score * score) / total_score / 256
        return said.astype(np.float32), power.astype(np.float32)

    def islands(self, inputs: FusionInput, regions: Regions) -> np.ndarray:
        """The compact confident TA regions without a mask of their own: bool `(H, W)`."""
        limits = int(self.island * inputs.labels.size), self.island_confidence, self.island_mask
        return small_unmasked_components(inputs.labels, inputs.confidence, regions, *limits)


COMPONENT = SoftMaskVote
