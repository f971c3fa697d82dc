"""Settings of stage two: how predictions and masks become the ensemble."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from pipeline.cache.artefact_spec import ArtefactSettings
from pipeline.core.components import Component, ComponentGroup
from pipeline.core.settings import NOT_IN_KEY, NameOrFile, Settings

RULES = ComponentGroup("rule", "stages.fuse.rules", "FusionRule", default_kind="paper")

Rule = Annotated[SerializeAsAny[Component], RULES]


class PoolingSettings(Settings):
    """How the predictions of overlapping views are averaged (docs/method.md 3.1) [O]."""

    mode: Literal["arithmetic", "log"] = Field(
        "arithmetic", description="arithmetic averages probabilities, log averages their logarithms."
    )
    confidence: float = Field(
        1.0, ge=0, description="Exponent kappa of (1 - normalised entropy) in the weight of a view."
    )
    floor: float = Field(1e-3, gt=0, description="Smallest weight epsilon of a view at a pixel.")


class FusionSettings(ArtefactSettings):
    """Artefact `fused`: the ensemble."""

    rule: Rule = Field(default_factory=RULES.default, description="The fusion rule.")
    pooling: PoolingSettings = Field(PoolingSettings(), description="Average of the TA's predictions over views.")
    boundary_radius: int | None = Field(
        None, ge=1, description="Boundaries of masks and TA match within these pixels; null: the TA's output stride."
    )
    label_space: NameOrFile | None = Field(
        None,
        json_schema_extra=NOT_IN_KEY,  # enters by its classes and mapping, see `stages.fuse.artefacts`
        description="Classes of the ensemble: name of a label space, or a YAML file; null: the TA's classes.",
    )
