"""Settings of SAM's automatic masks, shared by both generators that run them, and the loading of its weights."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from pydantic import Field, model_validator

from pipeline.core.components import import_by_name
from pipeline.core.errors import UserError
from pipeline.core.reading import error_text
from pipeline.core.settings import NOT_IN_KEY, SettingsFile
from pipeline.execution.devices import Precision
from stages.precompute.generators.base import Generate, MaskGenerator


class AutomaticMasks(MaskGenerator):
    """The settings of `SamAutomaticMaskGenerator` under its names, and two of ours.

    The two quality thresholds are lower than segment_anything's (0.88 and 0.95): the cache keeps more masks, and
    `masks.filter` selects among them later without running SAM again [O].

    `keep_prompt_component` and `mask_nms_thresh` [O] are off, as Meta's weights need neither. Masks of a small SAM have
    stray components far from the object. Their boxes then span the view, and suppression by boxes drops nearly all of
    them. The first setting removes these components, the second compares masks instead of boxes.
    """

    model_type: str = Field("vit_h", description="A model of segment_anything's registry: vit_h, vit_l or vit_b.")
    builder: str | None = Field(
        None, description="module:function that returns a Sam without weights, instead of model_type."
    )
    checkpoint: SettingsFile | None = Field(None, description="Weights; .pth or .safetensors.")
    random_weights: bool = Field(False, description="Run without a checkpoint (tests and timings).")
    points_per_side: int = Field(32, ge=1, le=1024)
    points_per_batch: int | None = Field(
        None, ge=1, json_schema_extra=NOT_IN_KEY, description="Prompts per call of the decoder; null: by the device."
    )
    pred_iou_thresh: float = Field(0.7, ge=0, le=1)
    stability_score_thresh: float = Field(0.8, ge=0, le=1)
    stability_score_offset: float = Field(1.0, ge=0)
    box_nms_thresh: float = Field(0.7, ge=0, le=1)
    crop_n_layers: int = Field(0, ge=0, le=5)
    crop_nms_thresh: float = Field(0.7, ge=0, le=1)
    crop_overlap_ratio: float = Field(512 / 1500, ge=0, le=1)
    crop_n_points_downscale_factor: int = Field(1, ge=1, le=1024)
    min_mask_region_area: int = Field(0, ge=0)
    keep_prompt_component: bool = Field(
        False, description="Cut each mask to the connected component at its prompt, for a SAM with stray components."
    )
    mask_nms_thresh: float | None = Field(
        None, ge=0, le=1, description="Suppress masks by their IoU above this; null: by that of boxes, as SAM does."
    )
    precision: Precision = Field("float32", description="float16 or bfloat16 run under autocast.")

    @model_validator(mode="after")
    def _every_layer_has_points(self) -> AutomaticMasks:
        scale: int = self.crop_n_points_downscale_factor**self.crop_n_layers
        if scale > self.points_per_side:
            raise ValueError(
                f"crop_n_points_downscale_factor {self.crop_n_points_downscale_factor} leaves no point of "
                f"points_per_side {self.points_per_side} on crop layer {self.crop_n_layers}; expected fewer layers, "
                "a smaller factor or more points"
            )
        return self

    def build(self, device: str) -> Generate:
        return self.with_model(self.load_model(device), device)

    @abstractmethod
    def with_model(self, model: Any, device: str) -> Generate:
        """Returns the function from views to mask sets; `model` is a `Sam` with its weights, on `device`."""

    def load_model(self, device: str) -> Any:
        """Returns the `Sam` with its weights, on `device`, in evaluation mode.

        Raises `UserError` if the model is unknown, or its weights are missing or of another model.
        """
        from segment_anything import sam_model_registry

        from pipeline.models.weights import load_into, zero_subnormals

        if self.builder is not None:
            builder = import_by_name(self.builder, "sam.generator.builder")
            try:
                model = builder()
            except Exception as error:  # the user's code may raise anything
                raise UserError(f"sam.generator.builder: {self.builder!r} failed: {error_text(error)}") from error
        elif self.model_type in sam_model_registry:
            model = sam_model_registry[self.model_type]()
        else:
            names = ", ".join(sorted(sam_model_registry))
            raise UserError(f"sam.generator.model_type: found {self.model_type!r}, expected one of {names}")
        if self.checkpoint is not None:
            load_into(model, self.checkpoint, f"SAM {self.builder or self.model_type}")
        elif not self.random_weights:
            raise UserError(
                "sam.generator.checkpoint: is missing; expected SAM's weights, e.g. sam_vit_h_4b8939.pth "
                "(without any, use sam.generator=felzenszwalb)"
            )
        return zero_subnormals(model.to(device).eval())
