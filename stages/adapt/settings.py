"""Settings of TA adaptation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.core.settings import NOT_IN_KEY, Settings


class AdaptSettings(Settings):
    """One round of TA adaptation: losses [P], numbers [O]."""

    statistics: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field(
        0.0,
        json_schema_extra=NOT_IN_KEY,  # a round depends on the TA that it begins with, which is in its key
        description="Share of the panoramas' own batch-norm statistics that the TA begins with, or auto: the share "
        "with the surest predictions; 0: none [O].",
    )
    iterations: int = Field(300, ge=1, description="Optimiser steps of a round.")
    batch_size: int = Field(2, ge=1, description="Pairs of neighbouring windows in a step.")
    learning_rate: float = Field(3e-5, gt=0, description="Initial learning rate of AdamW; falls to 0 over the round.")
    ensemble: float = Field(1.0, ge=0, description="Weight of CE(E, S).")
    confident: float = Field(1.0, ge=0, description="Weight of CE(E_H, S).")
    consistency: float = Field(1.0, ge=0, description="Weight of L_CC between the two neighbouring windows.")
    seed: int = Field(0, ge=0, description="Seed of the order of panoramas and windows.")
