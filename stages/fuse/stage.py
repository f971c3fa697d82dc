"""Stage two as a whole: checks the settings and runs the task."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.cache.artefact_spec import open_artefacts
from pipeline.cache.incremental import Report, update_artefact
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
    """Computes the images of the artefact `fused` that are missing or stale, of some splits (default: all).

    An image that is missing or failed upstream is a failure of the report, with that reason. `progress` also receives
    a warning if the classes of the manifest are not those of the ensemble. Raises `UserError`, before any image is
    fused, if an upstream artefact is missing or does not fit the settings.
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
    progress = progress or SilentProgress()
    if config.fusion.label_space is None and manifest.label_space.classes != space.classes:
        name = manifest.settings.label_space
        name = str(manifest.path.parent / name) if name.endswith((".yaml", ".yml")) else name
        progress.note(
            f"warning: {manifest.path}: label_space: found {manifest.label_space.num_classes} classes, but the "
            f"ensemble gets the {space.num_classes} classes of teacher.label_space ({space.name}); for an ensemble in "
            f"the classes of the manifest set fusion.label_space={name}"
        )
    return update_artefact(task, records, execution, progress)
