"""Preset `best`: soft votes of panorama masks, mixed with the stitched prediction (docs/method.md 3.3) [O]."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import scipy  # its subpackages are loaded when they are used
from pydantic import Field

from pipeline.core.settings import renamed
from stages.fuse.boundary import inpaint_boundary_band
from stages.fuse.regions import Regions, distance_to_boundary, find_regions, small_unmasked_components, soft_votes
from stages.fuse.rules.base import Ensemble, FusionInput, FusionRule
from stages.fuse.soft import certainty, encode_ensemble, ramp

#: Weights and logarithms are rounded to 1 / _STEPS before they are summed, so that their order does not matter.
_STEPS = 1 << 16

#: Rows that are fused at a time: few, so that they stay in the CPU cache.
_ROWS = 8


class SoftMaskVote(FusionRule):
    """Mixes the stitched prediction with the mean class distributions of the masks [O].

    The distribution of a mask is the mean of the stitched probabilities inside it. Pixels count by the TA's certainty
    and by their distance to the next region, because the TA bleeds over edges. The fused prediction of a pixel is
    `S^(1-b)` times the geometric mean of its masks' distributions to the power `b`; `b` is `strength` times SAM's score
    of the masks, and 0 in no mask. Small and confident connected regions of one TA label without a mask of their own (a
    pole or a sign on a facade) are protected: they keep the stitched prediction. The weight map rises with the label's
    fused probability from 0 at `theta` to 1.
    """

    kind: str = "best"
    needs: ClassVar[tuple[str, ...]] = ("teacher", "masks")
    strength: float = Field(0.65, ge=0, le=1, description="Power of the masks' distributions where SAM's score is 1.")
    floor: float = Field(0.01, gt=0, lt=1, description="Smallest probability of a class in a mask's distribution.")
    full_vote_distance: int = Field(
        4, ge=1, json_schema_extra=renamed("deepest"), description="Distance in pixels from which on a vote is full."
    )
    protected_area: float = Field(
        0.002, ge=0, le=1, json_schema_extra=renamed("island"), description="Largest protected region, part of pixels."
    )
    protected_confidence: float = Field(
        0.7, ge=0, le=1, json_schema_extra=renamed("island_confidence"), description="Lowest confidence of the region."
    )
    protected_mask_overlap: float = Field(
        0.5, gt=0, le=1, json_schema_extra=renamed("island_mask"), description="Part of a mask that ends protection."
    )
    inpaint_radius: int = Field(
        0, ge=0, json_schema_extra=renamed("snap_radius"), description="Pixels around B_ref to inpaint before; 0: none."
    )
    theta: float = Field(
        0.5, ge=0, lt=1, description="Fused probability at which the weight of a label begins to rise."
    )

    def __call__(self, inputs: FusionInput) -> Ensemble:
        assert inputs.log_probabilities is not None
        stitched = inputs.log_probabilities
        regions = find_regions(inputs.masks)
        region_logs, region_power = self.mask_votes(inputs, regions)
        power = region_power[regions.index]
        if self.protected_area:
            max_area = int(self.protected_area * inputs.labels.size)
            limits = max_area, self.protected_confidence, self.protected_mask_overlap
            power[small_unmasked_components(inputs.labels, inputs.confidence, regions, *limits)] = 0
        base = stitched
        if self.inpaint_radius and inputs.boundary is not None:
            base = inpaint_boundary_band(stitched, regions.index, inputs.boundary, self.inpaint_radius)
        class_logs = np.ascontiguousarray(region_logs.T)
        label, gate, weight = (np.empty_like(inputs.labels) for _ in range(3))
        for first in range(0, len(label), _ROWS):
            rows = slice(first, first + _ROWS)
            fused = np.take(class_logs, regions.index[rows], axis=1)
            fused *= power[rows]
            fused += base[:, rows] * (1 - power[rows])
            result = encode_ensemble(stitched[:, rows], fused)
            label[rows], gate[rows], weight[rows] = result.label, result.gate, ramp(result.probability, self.theta)
        return Ensemble(label, gate, weight)

    def mask_votes(self, inputs: FusionInput, regions: Regions) -> tuple[np.ndarray, np.ndarray]:
        """Returns the log-probabilities of each region's masks, float32 `(R, C)`, and their power, float32 `(R,)`."""
        assert inputs.stitched is not None
        votes = scipy.special.softmax(inputs.stitched, axis=0)
        votes = votes * certainty(votes)
        distance = distance_to_boundary(regions.index, self.full_vote_distance)
        total = regions.sum_over_regions(soft_votes(regions, distance, votes))
        share = total / np.maximum(total.sum(axis=1, keepdims=True), 1e-12)
        logs = np.rint(np.log(np.maximum(share, self.floor)) * _STEPS)
        table = inputs.masks.table
        scores = (np.nan_to_num(table[n].astype(np.float64), nan=1) for n in ("predicted_iou", "stability_score"))
        score = np.rint(np.multiply(*scores).clip(0, 1) * 255) + 1
        total_score = np.maximum(regions.sum_over_masks(score), 1)
        region_logs = regions.sum_over_masks(logs * score[:, None]) / total_score[:, None] / _STEPS
        power = self.strength * regions.sum_over_masks(score * score) / total_score / 256
        return region_logs.astype(np.float32), power.astype(np.float32)


COMPONENT = SoftMaskVote
