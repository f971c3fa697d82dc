"""segment_anything's own automatic mask generator (Kirillov et al., Segment Anything, ICCV 2023)."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from pydantic import Field

from pipeline.devices import Precision, autocast
from pipeline.errors import UserError
from pipeline.masks import MaskSet, from_masks
from pipeline.settings import SettingsFile
from stages.precompute.generators.base import Generate, MaskGenerator


class Sam(MaskGenerator):
    """``SamAutomaticMaskGenerator``; settings of the same name mean the same.

    The two quality thresholds are lower than segment_anything's (0.88 and 0.95): the cache keeps more, and
    ``masks.filter`` decides later without running SAM again (ours).
    """

    kind: str = "sam"
    model_type: str = Field("vit_h", description="A model of segment_anything's registry: vit_h, vit_l or vit_b.")
    builder: str | None = Field(
        None, description="module:function that returns a Sam without weights, instead of model_type."
    )
    checkpoint: SettingsFile | None = Field(None, description="Weights; .pth or .safetensors.")
    random_weights: bool = Field(False, description="Run without a checkpoint (tests and timings).")
    points_per_side: int = Field(32, ge=1)
    points_per_batch: int = Field(64, ge=1, json_schema_extra={"in_key": False})
    pred_iou_thresh: float = Field(0.7, ge=0, le=1)
    stability_score_thresh: float = Field(0.8, ge=0, le=1)
    stability_score_offset: float = Field(1.0, ge=0)
    box_nms_thresh: float = Field(0.7, ge=0, le=1)
    crop_n_layers: int = Field(0, ge=0)
    crop_nms_thresh: float = Field(0.7, ge=0, le=1)
    crop_overlap_ratio: float = Field(512 / 1500, ge=0, le=1)
    crop_n_points_downscale_factor: int = Field(1, ge=1)
    min_mask_region_area: int = Field(0, ge=0)
    precision: Precision = Field("float32", description="float16 or bfloat16 run under autocast.")

    def build(self, device: str) -> Generate:
        from segment_anything import SamAutomaticMaskGenerator

        model = self._model().to(device).eval()
        generator = SamAutomaticMaskGenerator(
            model,
            points_per_side=self.points_per_side,
            points_per_batch=self.points_per_batch,
            pred_iou_thresh=self.pred_iou_thresh,
            stability_score_thresh=self.stability_score_thresh,
            stability_score_offset=self.stability_score_offset,
            box_nms_thresh=self.box_nms_thresh,
            crop_n_layers=self.crop_n_layers,
            crop_nms_thresh=self.crop_nms_thresh,
            crop_overlap_ratio=self.crop_overlap_ratio,
            crop_n_points_downscale_factor=self.crop_n_points_downscale_factor,
            min_mask_region_area=self.min_mask_region_area,
        )

        def generate(image: np.ndarray) -> MaskSet:
            with autocast(device, self.precision):
                found = generator.generate(image)
            return from_masks(
                [mask["segmentation"] for mask in found],
                *image.shape[:2],
                predicted_iou=[mask["predicted_iou"] for mask in found],
                stability_score=[mask["stability_score"] for mask in found],
                points=[tuple(mask["point_coords"][0]) for mask in found],
            )

        return generate

    def _model(self) -> Any:
        from segment_anything import sam_model_registry

        from pipeline.checkpoints import load_into

        if self.builder is not None:
            module, _, function = self.builder.partition(":")
            try:
                build = getattr(importlib.import_module(module), function)
            except (ImportError, AttributeError, ValueError) as error:
                raise UserError(f"sam.generator.builder: {self.builder!r} cannot be imported: {error}") from None
            model = build()
        elif self.model_type in sam_model_registry:
            model = sam_model_registry[self.model_type]()
        else:
            known = ", ".join(sorted(sam_model_registry))
            raise UserError(f"sam.generator.model_type: found {self.model_type!r}, expected one of {known}")
        if self.checkpoint is not None:
            load_into(model, self.checkpoint, f"SAM {self.builder or self.model_type}")
        elif not self.random_weights:
            raise UserError(
                "sam.generator.checkpoint: is missing; expected SAM's weights, e.g. sam_vit_h_4b8939.pth "
                "(without any, use sam.generator=felzenszwalb)"
            )
        return model


COMPONENT = Sam
