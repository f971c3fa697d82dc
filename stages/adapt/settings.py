"""Settings of TA adaptation."""

from __future__ import annotations

from pydantic import Field

from pipeline.core.settings import Settings


class AdaptSettings(Settings):
    """One round of TA adaptation: losses [P], numbers [O]."""

    iterations: int = Field(300, ge=1, description="Optimiser steps of a round.")
    batch_size: int = Field(2, ge=1, description="Pairs of neighbouring windows in a step.")
    learning_rate: float = Field(3e-5, gt=0, description="Initial learning rate of AdamW; falls to 0 over the round.")
    ensemble: float = Field(1.0, ge=0, description="Weight of CE(E, S).")
    confident: float = Field(1.0, ge=0, description="Weight of CE(E_H, S).")
    consistency: float = Field(1.0, ge=0, description="Weight of L_CC between the two neighbouring windows.")
    seed: int = Field(0, ge=0, description="Seed of the order of panoramas and windows.")
