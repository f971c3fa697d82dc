"""segment_anything's own automatic mask generator (Kirillov et al., Segment Anything, ICCV 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.execution.devices import autocast
from pipeline.geometry.masks import MaskSet, from_masks
from stages.precompute.generators.base import Generate
from stages.precompute.sam.settings import AutomaticMasks


class SamReference(AutomaticMasks):
    """`SamAutomaticMaskGenerator` itself, to compare with: kind `sam` finds the same masks much cheaper."""

    kind: str = "sam_reference"

    def with_model(self, model: Any, device: str) -> Generate:
        from segment_anything import SamAutomaticMaskGenerator

        from stages.precompute.sam.binary import mask_nms, prompt_component

        generator = SamAutomaticMaskGenerator(
            model,
            points_per_side=self.points_per_side,
            points_per_batch=self.points_per_batch or 64,
            pred_iou_thresh=self.pred_iou_thresh,
            stability_score_thresh=self.stability_score_thresh,
            stability_score_offset=self.stability_score_offset,
            box_nms_thresh=self.box_nms_thresh if self.mask_nms_thresh is None else 1.0,
            crop_n_layers=self.crop_n_layers,
            crop_nms_thresh=self.crop_nms_thresh if self.mask_nms_thresh is None else 1.0,
            crop_overlap_ratio=self.crop_overlap_ratio,
            crop_n_points_downscale_factor=self.crop_n_points_downscale_factor,
            min_mask_region_area=self.min_mask_region_area,
        )

        def masks_of(image: np.ndarray) -> MaskSet:
            with autocast(device, self.precision):
                found = generator.generate(image)
            masks = [mask["segmentation"] for mask in found]
            if self.keep_prompt_component:
                masks = [prompt_component(mask["segmentation"], *mask["point_coords"][0]) for mask in found]
            if self.mask_nms_thresh is not None:
                kept = mask_nms(masks, [mask["predicted_iou"] for mask in found], self.mask_nms_thresh)
                masks, found = [masks[k] for k in kept], [found[k] for k in kept]
            return from_masks(
                masks,
                *image.shape[:2],
                predicted_iou=[mask["predicted_iou"] for mask in found],
                stability_score=[mask["stability_score"] for mask in found],
                points=[tuple(mask["point_coords"][0]) for mask in found],
            )

        def generate(views: Sequence[np.ndarray]) -> list[MaskSet]:
            return [masks_of(view) for view in views]

        return generate


COMPONENT = SamReference
