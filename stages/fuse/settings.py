"""Settings of stage two: how predictions and masks become the ensemble."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from pipeline.cache.artefact_settings import ArtefactSettings
from pipeline.core.components import Component, ComponentGroup
from pipeline.core.settings import NOT_IN_KEY, NameOrFile, Settings

RULES = ComponentGroup("rule", "stages.fuse.rules", "FusionRule")

Rule = Annotated[SerializeAsAny[Component], RULES.validator()]


class PoolingSettings(Settings):
    """How the views' predictions become one (docs/method.md 3.1; all numbers ours)."""

    mode: Literal["arithmetic", "log"] = Field("arithmetic", description="Average probabilities, or logarithms.")
    confidence: float = Field(1.0, ge=0, description="Exponent kappa of (1 - normalised entropy) in the weight.")
    floor: float = Field(1e-3, gt=0, description="Smallest weight epsilon of a view at a pixel.")


class FusionSettings(ArtefactSettings):
    """Artefact `fused`: the ensemble."""

    rule: Rule = Field(default_factory=lambda: RULES.default("paper"), description="The fusion rule.")
    pooling: PoolingSettings = PoolingSettings()
    boundary_radius: int | None = Field(
        None,
        ge=1,
        description="Pixels within which boundaries of SAM and the TA are one; null: the TA's output stride.",
    )
    label_space: NameOrFile | None = Field(
        None,
        json_schema_extra=NOT_IN_KEY,  # enters by its classes and mapping, see `stages.fuse.artefacts`
        description="Classes of the ensemble: a label space's name or file; null keeps the TA's own.",
    )
