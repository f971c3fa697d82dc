"""The artefact that stage two makes: `fused`, the ensemble."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.cache.artefact_spec import ArtefactSpec

if TYPE_CHECKING:
    from stages.config import Config


def _key_parts(config: Config) -> dict[str, Any]:
    parts: dict[str, Any] = {"fusion": config.fusion.key_parts()}
    target, source = config.fused_space(), config.teacher_space()
    if target.classes != source.classes:
        mapping = target.mapping_from(source).tolist()
        parts["label_space"] = {"classes": list(target.classes), "mapping": mapping}
    return parts


def _upstream(config: Any) -> tuple[str, ...]:
    return tuple(config.fusion.rule.needs)


def _attributes(config: Config) -> dict[str, Any]:
    space = config.fused_space()
    return {"classes": list(space.classes), "label_space": space.name, "ignore_index": space.ignore_index}


FUSED = ArtefactSpec(
    "fused", "fusion", "fuse", "ensemble", _key_parts, algorithm=2, upstream=_upstream, attributes=_attributes
)
