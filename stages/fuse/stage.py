"""Stage two as a whole."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.cache.incremental import Report, bring_up_to_date
from pipeline.cache.upstream import open_artefacts
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, SilentProgress
from pipeline.data.manifests import Manifest
from pipeline.execution.executor import Execution
from stages.config import Config
from stages.fuse.tasks import FuseTask


def fuse(
    manifest: Manifest,
    config: Config,
    *,
    splits: Sequence[str] = (),
    execution: Execution = Execution(),
    progress: Progress | None = None,
) -> Report:
    """Brings the artefact `fused` up to date with what stage one has made.

    Raises `UserError` before any work if an upstream artefact is missing or does not fit the settings. An image
    that is missing or failed upstream fails here with that reason; the others are fused.
    """
    if config.fusion.artefact is not None:
        raise UserError(
            f"config: fusion.artefact: found {config.fusion.artefact!r}, which is used as it is; expected none to fuse"
        )
    task = FuseTask(config, manifest.preprocessing, manifest.name)
    upstream = open_artefacts(task.cache, task.artefacts, task.artefacts.upstream("fused"))
    space, stored = config.teacher_space(), upstream["teacher"].attributes().get("classes")
    if stored is not None and not isinstance(stored, list):
        raise UserError(f"{upstream['teacher']}: attribute classes is {stored!r}, expected a list of names")
    if stored is not None and len(stored) != space.num_classes:
        raise UserError(
            f"{upstream['teacher']}: holds logits of {len(stored)} classes, but teacher.label_space {space.name} has "
            f"{space.num_classes}; expected the TA's own label space"
        )
    task.cache.storage.check_writable()
    records = execution.select(manifest.select(splits))
    return bring_up_to_date(task, records, execution, progress or SilentProgress())
