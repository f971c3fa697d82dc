"""Settings of stage three: the student and its training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pipeline.core.settings import NOT_IN_KEY, NameOrFile, Settings, SettingsFile, renamed, renamed_value


class TrainSettings(Settings):
    """The student and its training."""

    student: NameOrFile = Field(
        "goodsam_m", description="Name of a config in mmseg_configs/students, or the path of any mmsegmentation config."
    )
    split: str = Field("train", description="Split of the manifest to train on.")
    iterations: int | None = Field(None, ge=1, description="Optimiser steps; null: those of the student's config.")
    batch_size: int = Field(2, ge=1, description="Images in a step, for each process.")
    seed: int = Field(0, ge=0, description="Seed of initial weights, order of images and augmentation.")
    schedule: NameOrFile | None = Field(
        None, description="schedule_gpu, schedule_gpus, schedule_demo or a config; null: that of the student's config."
    )
    load_from: SettingsFile | None = Field(
        None, description="Initial weights of the whole student; null: those of the student's config."
    )
    pretrained_backbone: SettingsFile | None = Field(
        None, description="Initial weights of the backbone: a file of the backbone alone, or of a whole segmentor."
    )
    corrections: SettingsFile | None = Field(
        None,
        json_schema_extra=NOT_IN_KEY,  # enters by the corrected labels, see `stages.train.stage.run_folder`
        description="Folder of corrected label maps, named as `labels` writes them; they replace the pseudo-labels.",
    )
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="Changes of the mmsegmentation config, e.g. {model.mka.boundary: 0}."
    )
    class_balance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Exponent of the inverse class frequency in the weight of a pixel; 0: all classes weigh the same.",
    )
    circular_padding: bool = Field(
        False,
        json_schema_extra=renamed("cyclic_padding"),
        description="Pad the student's convolutions circularly in x, across the seam of the panorama.",
    )
    ema: float | None = Field(
        None, gt=0, lt=1, description="Momentum of a moving average of the weights, e.g. 0.001; null: no average."
    )
    select: Literal["last", "pseudo_label_miou"] = Field(
        "last",
        json_schema_extra=renamed_value("agreement", "pseudo_label_miou"),
        description="The checkpoint to keep: the last, or that of the highest mIoU on held-out pseudo-labels.",
    )
    held_out: float = Field(
        0.1, gt=0, lt=1, description="Share of the panoramas that is held out for select: pseudo_label_miou."
    )
    workers: int = Field(2, ge=0, json_schema_extra=NOT_IN_KEY, description="Processes that load images.")
    memory: int = Field(
        1024,
        ge=0,
        json_schema_extra=NOT_IN_KEY,
        description="MiB of decoded panoramas that each loader process keeps in memory.",
    )
    tensorboard: bool = Field(
        False, json_schema_extra=NOT_IN_KEY, description="Also write scalars and sample pictures for TensorBoard."
    )
