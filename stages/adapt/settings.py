"""Settings of TA adaptation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.core.settings import NOT_IN_KEY, Settings

#: The paper's adaptation: its losses alone, on the TA as it is.
PAPER: Mapping[str, Any] = {
    "statistics": 0.0,
    "scale": 1.0,
    "class_balance": 0.0,
    "anchor": 0.0,
}


class AdaptSettings(Settings):
    """TA adaptation: losses [P], numbers and all else [O]."""

    preset: Literal["ours", "paper"] = Field(
        "ours",
        json_schema_extra=NOT_IN_KEY,  # the settings that it changes are in the key
        description="paper: statistics, scale, class_balance and anchor are off unless they are given.",
    )
    # The next two are not in the key: a round depends on the TA that it begins with, which is in its key.
    statistics: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "auto",
        json_schema_extra=NOT_IN_KEY,
        description="Share of the panoramas' own batch-norm statistics that the TA begins with, or auto: the share "
        "with the surest predictions; 0: none [O].",
    )
    scale: Literal["auto"] | Annotated[float, Field(gt=0, le=4)] = Field(
        "auto",
        json_schema_extra=NOT_IN_KEY,
        description="Factor of teacher.model.scale that the TA begins with, or auto: the one with the surest "
        "predictions; 1: none [O].",
    )
    iterations: int = Field(300, ge=1, description="Optimiser steps of a round.")
    batch_size: int = Field(2, ge=1, description="Pairs of neighbouring windows in a step.")
    learning_rate: float = Field(1e-5, gt=0, description="Initial learning rate of AdamW; falls to 0 over the round.")
    ensemble: float = Field(1.0, ge=0, description="Weight of CE(E, S).")
    confident: float = Field(1.0, ge=0, description="Weight of CE(E_H, S).")
    consistency: float = Field(1.0, ge=0, description="Weight of L_CC between the two neighbouring windows.")
    class_balance: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Exponent of the inverse class frequency in the weight of a pixel; 0: all classes weigh the same "
        "[O].",
    )
    anchor: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Share of the weights before the first round of training in those after each round; 0: none [O].",
    )
    seed: int = Field(0, ge=0, description="Seed of the order of panoramas and windows.")

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, data: Any) -> Any:
        return {**PAPER, **data} if isinstance(data, Mapping) and data.get("preset") == "paper" else data
