"""The artefacts that stage one makes: `sam`, `masks` and `teacher`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.cache.artefact_spec import ArtefactSpec
from pipeline.core.errors import UserError

if TYPE_CHECKING:
    from stages.config import Config


def _masks_key_parts(config: Config) -> dict[str, Any]:
    return {"masks": config.masks.key_parts()}


def _teacher_key_parts(config: Config) -> dict[str, Any]:
    if config.teacher.model is None:
        raise UserError(
            "config: teacher.model is missing; expected a TA, e.g. {kind: mmseg, config: ..., "
            "checkpoint: ...}, or teacher.artefact naming one in the cache"
        )
    return {"teacher": config.teacher.key_parts()}


def _teacher_attributes(config: Config) -> dict[str, Any]:
    space = config.teacher_space()
    return {"classes": list(space.classes), "label_space": space.name}


SAM = ArtefactSpec("sam", "sam", "precompute", "masks of the views", lambda config: {"sam": config.sam.key_parts()})

MASKS = ArtefactSpec(
    "masks", "masks", "precompute", "panorama masks", _masks_key_parts, algorithm=2, upstream=lambda config: ("sam",)
)

TEACHER = ArtefactSpec(
    "teacher", "teacher", "precompute", "TA logits", _teacher_key_parts, attributes=_teacher_attributes
)
