"""Settings of stage three: the student and its training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.core.settings import (
    NOT_IN_KEY,
    NameOrFile,
    Settings,
    SettingsFile,
    renamed,
    renamed_value,
)


class TrainSettings(Settings):
    """The student and its training."""

    student: NameOrFile = Field(
        "goodsam_m", description="A config in mmseg_configs/students by name, or any mmsegmentation config by path."
    )
    split: str = Field("train", description="Split of the manifest to train on.")
    iterations: int | None = Field(None, ge=1, description="Optimiser steps; null takes the student config's.")
    batch_size: int = Field(2, ge=1, description="Images a step and process.")
    seed: int = Field(0, ge=0, description="Seed of weights, order and augmentation.")
    schedule: NameOrFile | None = Field(
        None,
        description="schedule_gpu, schedule_gpus, schedule_demo or a config, instead of the student config's schedule.",
    )
    load_from: SettingsFile | None = Field(
        None, description="Weights of a whole student to start from; null: what the student's config says."
    )
    pretrained_backbone: SettingsFile | None = Field(
        None, description="Weights of the backbone alone, from a file of its own or from a whole segmentor's."
    )
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="Changes to the mmsegmentation config, e.g. {model.mka.boundary: 0}."
    )
    class_balance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Pixels of rare classes weigh more: exponent of the inverse class share in the pseudo-labels.",
    )
    circular_padding: bool = Field(
        False,
        json_schema_extra=renamed("cyclic_padding"),
        description="The student's convolutions wrap around the seam.",
    )
    ema: float | None = Field(
        None, gt=0, lt=1, description="Momentum of a moving average of the weights, e.g. 0.001; null is off."
    )
    select: Annotated[Literal["last", "pseudo_label_miou"], renamed_value("agreement", "pseudo_label_miou")] = Field(
        "last", description="Which checkpoint counts; pseudo_label_miou: the best on held-out pseudo-labels."
    )
    held_out: float = Field(
        0.1, gt=0, lt=1, description="Share of the panoramas that select: pseudo_label_miou holds out."
    )
    workers: int = Field(2, ge=0, json_schema_extra=NOT_IN_KEY, description="Loader processes.")
    memory: int = Field(
        1024,
        ge=0,
        json_schema_extra=NOT_IN_KEY,
        description="MiB of decoded panoramas that each loader process keeps instead of reading them again.",
    )
    tensorboard: bool = Field(
        False, json_schema_extra=NOT_IN_KEY, description="Scalars and sample pictures for TensorBoard too."
    )
