"""segment_anything's own automatic mask generator (Kirillov et al., Segment Anything, ICCV 2023)."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
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

    ``keep_prompt_component`` and ``mask_nms_thresh`` are ours and off, as Meta's weights need neither. A small SAM's
    masks have stray islands far from the object; their boxes then span the view, and suppression by boxes deletes
    nearly all of them. Cut down first, compare masks after.
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
    keep_prompt_component: bool = Field(
        False,
        description="Cut every mask down to the connected piece under its point, for a SAM whose masks have islands.",
    )
    mask_nms_thresh: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Remove duplicates by the IoU of masks above this, instead of boxes; null: boxes, as SAM does.",
    )
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
            box_nms_thresh=self.box_nms_thresh if self.mask_nms_thresh is None else 1.0,
            crop_n_layers=self.crop_n_layers,
            crop_nms_thresh=self.crop_nms_thresh if self.mask_nms_thresh is None else 1.0,
            crop_overlap_ratio=self.crop_overlap_ratio,
            crop_n_points_downscale_factor=self.crop_n_points_downscale_factor,
            min_mask_region_area=self.min_mask_region_area,
        )

        def generate(image: np.ndarray) -> MaskSet:
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


def prompt_component(mask: np.ndarray, x: float, y: float) -> np.ndarray:
    """The 8-connected piece of ``mask`` (bool ``(h, w)``) that holds the point; the largest one if none does.

    ``x``, ``y`` are in pixels from the upper left corner. An empty mask stays empty.
    """
    from scipy.ndimage import label

    pieces, count = label(mask, structure=np.ones((3, 3), dtype=np.int8))
    if count <= 1:
        return mask
    height, width = mask.shape
    piece = pieces[min(int(y), height - 1), min(int(x), width - 1)]
    if piece == 0:
        piece = 1 + np.bincount(pieces.ravel())[1:].argmax()
    kept: np.ndarray = pieces == piece
    return kept


def mask_nms(masks: Sequence[np.ndarray], scores: Sequence[float], threshold: float) -> list[int]:
    """Greedy non-maximum suppression by the IoU of masks (each bool ``(h, w)``).

    Returns the indices that stay, best score first (of equal ones the earlier first): those whose IoU with every
    better mask that stays is at most ``threshold``. Empty masks do not stay.
    """
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    kept: list[int] = []
    areas = np.zeros(len(masks), dtype=np.int64)
    packed = np.zeros((len(masks), -(-masks[0].size // 8) if masks else 0), dtype=np.uint8)
    for k in order.tolist():
        area = int(np.count_nonzero(masks[k]))
        if not area:
            continue
        bits = np.packbits(masks[k])
        n = len(kept)
        both = np.bitwise_count(packed[:n] & bits).sum(axis=1, dtype=np.int64)
        if (both <= threshold * (areas[:n] + area - both)).all():
            packed[n], areas[n] = bits, area
            kept.append(k)
    return kept


COMPONENT = Sam
