"""Settings of stage one: masks of every view, panorama masks, logits of the TA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, SerializeAsAny

from pipeline.cache.artefact_settings import ArtefactSettings
from pipeline.core.components import Component, ComponentGroup
from pipeline.core.settings import NOT_IN_KEY, NameOrFile, Settings, renamed
from pipeline.geometry.views import ViewSettings

GENERATORS = ComponentGroup("generator", "stages.precompute.generators", "MaskGenerator")
TEACHERS = ComponentGroup("teacher", "stages.precompute.teachers", "Teacher")

Generator = Annotated[SerializeAsAny[Component], GENERATORS.validator()]
TeacherModel = Annotated[SerializeAsAny[Component], TEACHERS.validator()]


class SamSettings(ArtefactSettings):
    """Artefact `sam`: masks of every view, at permissive thresholds (docs/method.md 2)."""

    views: ViewSettings = Field(ViewSettings(), description="Where the mask generator looks.")
    generator: Generator = Field(
        default_factory=lambda: GENERATORS.default("felzenszwalb"),
        description="The mask generator.",
    )


class FilterSettings(Settings):
    """Which of the cached masks count. The quality thresholds are segment_anything's own defaults; the area is ours."""

    min_area: int = Field(32, ge=0, description="Smallest mask, in pixels.")
    predicted_iou: float = Field(0.88, ge=0, le=1, description="Lowest predicted IoU; masks without one stay.")
    stability_score: float = Field(0.95, ge=0, le=1, description="Lowest stability score; masks without one stay.")


class MergeSettings(Settings):
    """How view masks become panorama masks (docs/method.md 2) [O]."""

    merge_iou_thresh: float = Field(
        0.6,
        gt=0,
        le=1,
        json_schema_extra=renamed("agreement"),
        description="Two masks of neighbouring views are merged from this IoU on the pixels that both views share.",
    )
    nms_iou_thresh: float = Field(
        0.9,
        gt=0,
        le=1,
        json_schema_extra=renamed("duplicate"),
        description="Of two panorama masks above this IoU the lower scored one is dropped; 1 drops none.",
    )


class MaskSettings(ArtefactSettings):
    """Artefact `masks`: filtered and merged panorama masks and their boundary."""

    retired: ClassVar[Mapping[str, str]] = {"boundary_strength": "nothing reads that array"}

    filter: FilterSettings = FilterSettings()
    merge: MergeSettings = Field(MergeSettings(), json_schema_extra=renamed("lift"))


class TeacherSettings(ArtefactSettings):
    """Artefact `teacher`: logits of the TA (teacher assistant) for every view, at its native stride."""

    views: ViewSettings = Field(ViewSettings(), description="Where the TA looks.")
    model: TeacherModel | None = Field(None, description="The TA.")
    label_space: NameOrFile = Field(
        "cityscapes19",
        json_schema_extra=NOT_IN_KEY,
        description="The TA's own classes: a label space's name, or a YAML file.",
    )
