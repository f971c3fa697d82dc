"""Settings of stage one: masks of the views, panorama masks, logits of the TA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, SerializeAsAny

from pipeline.cache.artefact_spec import ArtefactSettings
from pipeline.core.components import Component, ComponentGroup
from pipeline.core.settings import NOT_IN_KEY, NameOrFile, Settings, renamed
from pipeline.geometry.views import ViewSettings

GENERATORS = ComponentGroup("generator", "stages.precompute.generators", "MaskGenerator", default_kind="felzenszwalb")
TEACHERS = ComponentGroup("teacher", "stages.precompute.teachers", "Teacher")

Generator = Annotated[SerializeAsAny[Component], GENERATORS]
TeacherModel = Annotated[SerializeAsAny[Component], TEACHERS]


class SamSettings(ArtefactSettings):
    """Artefact `sam`: masks of every view, at permissive thresholds (docs/method.md 2)."""

    views: ViewSettings = Field(ViewSettings(), description="The views that the mask generator gets.")
    generator: Generator = Field(default_factory=GENERATORS.default, description="The mask generator.")


class FilterSettings(Settings):
    """Which of the cached masks are used: quality thresholds as in segment_anything, the area [O]."""

    min_area: int = Field(32, ge=0, description="Smallest area of a mask in pixels.")
    predicted_iou: float = Field(0.88, ge=0, le=1, description="Lowest predicted IoU; a mask without one is kept.")
    stability_score: float = Field(0.95, ge=0, le=1, description="Lowest stability score; a mask without one is kept.")


class MergeSettings(Settings):
    """How view masks are merged to panorama masks (docs/method.md 2) [O]; of duplicates the best is kept."""

    merge_iou_thresh: float = Field(
        0.6, gt=0, le=1, json_schema_extra=renamed("agreement"), description="Lowest IoU on common pixels to merge two."
    )
    nms_iou_thresh: float = Field(
        0.9, gt=0, le=1, json_schema_extra=renamed("duplicate"), description="Highest IoU of two that are both kept."
    )
    remove_cuts: bool = Field(
        False,
        description="Remove what a view's left and right edge cuts from a mask, where the next view sees it whole.",
    )


class MaskSettings(ArtefactSettings):
    """Artefact `masks`: filtered and merged panorama masks and their boundary."""

    retired: ClassVar[Mapping[str, str]] = {"boundary_strength": "nothing reads that array"}

    filter: FilterSettings = Field(FilterSettings(), description="Which of the cached masks are used.")
    merge: MergeSettings = Field(
        MergeSettings(), json_schema_extra=renamed("lift"), description="How view masks become panorama masks."
    )


class TeacherSettings(ArtefactSettings):
    """Artefact `teacher`: logits of the TA (teacher assistant) for every view, at its native stride."""

    views: ViewSettings = Field(ViewSettings(), description="The views that the TA gets.")
    model: TeacherModel | None = Field(None, description="The TA.")
    label_space: NameOrFile = Field(
        "cityscapes19", json_schema_extra=NOT_IN_KEY, description="The TA's classes: a label space's name or YAML file."
    )
