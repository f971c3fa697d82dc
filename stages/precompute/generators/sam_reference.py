"""segment_anything's own automatic mask generator (Kirillov et al., Segment Anything, ICCV 2023)."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.execution.devices import inference_context
from pipeline.geometry.masks import MaskSet, from_masks
from stages.precompute.generators.base import Generate
from stages.precompute.sam.settings import AutomaticMasks

_SHARED_SETTINGS = {
    *("points_per_side", "pred_iou_thresh", "stability_score_thresh", "stability_score_offset"),
    *("crop_n_layers", "crop_overlap_ratio", "crop_n_points_downscale_factor", "min_mask_region_area"),
}


class SamReference(AutomaticMasks):
    """`SamAutomaticMaskGenerator` itself, for comparison: kind `sam` finds the same masks at lower cost."""

    kind: str = "sam_reference"

    def with_model(self, model: Any, device: str) -> Generate:
        from segment_anything import SamAutomaticMaskGenerator

        from stages.precompute.sam.binary import mask_nms, prompt_component

        by_boxes = self.mask_nms_thresh is None
        generator = SamAutomaticMaskGenerator(
            model,
            points_per_batch=self.points_per_batch or 64,
            box_nms_thresh=self.box_nms_thresh if by_boxes else 1.0,
            crop_nms_thresh=self.crop_nms_thresh if by_boxes else 1.0,
            **self.model_dump(include=_SHARED_SETTINGS),
        )

        def segment(image: np.ndarray) -> MaskSet:
            with inference_context(device, self.precision):
                records = generator.generate(image)
            masks = [record["segmentation"] for record in records]
            if self.keep_prompt_component:
                masks = [prompt_component(record["segmentation"], *record["point_coords"][0]) for record in records]
            if self.mask_nms_thresh is not None:
                indices = mask_nms(masks, [record["predicted_iou"] for record in records], self.mask_nms_thresh)
                masks, records = [masks[k] for k in indices], [records[k] for k in indices]
            return from_masks(
                masks,
                *image.shape[:2],
                predicted_iou=[record["predicted_iou"] for record in records],
                stability_score=[record["stability_score"] for record in records],
                point=[tuple(record["point_coords"][0]) for record in records],
            )

        return lambda views: [segment(view) for view in views]


COMPONENT = SamReference
