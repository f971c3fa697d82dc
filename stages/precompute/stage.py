"""Stage one as a whole: what there is to do, in which order, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.cache import Cache
from pipeline.cache.cache_task import CacheTask
from pipeline.cache.incremental import Report, bring_up_to_date, stale_images
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, SilentProgress
from pipeline.data.manifests import Manifest
from pipeline.execution.executor import Execution
from stages.config import Config
from stages.precompute.artefacts import MASKS
from stages.precompute.tasks import MasksTask, SamTask, TeacherTask

TASKS: dict[str, type[CacheTask]] = {task.spec.kind: task for task in (SamTask, MasksTask, TeacherTask)}


def precompute(
    manifest: Manifest,
    config: Config,
    *,
    splits: Sequence[str] = (),
    only: Sequence[str] = (),
    by_content: bool = False,
    execution: Execution = Execution(),
    progress: Progress | None = None,
) -> list[Report]:
    """Brings the artefacts `sam`, `masks` and `teacher` (or `only` some) up to date.

    Images that are done are left alone; `by_content` compares every image file with its digest, not with its size and
    time. Raises `UserError` before any work if settings, checkpoints or the cache
    cannot work; an image that cannot be processed is recorded and reported.
    """
    progress = progress or SilentProgress()
    check(manifest, config)
    records = execution.select(manifest.select(splits))
    tasks = []
    for kind in [kind for kind in TASKS if not only or kind in only]:
        task = TASKS[kind](config, manifest.preprocessing, manifest.name, by_content)
        external = task.artefacts.external(kind) is not None
        if external or task.artefact().exists():
            task.artefact().attributes()  # refuses a missing or a damaged one, and another format
        if not external:
            tasks.append(task)
    Cache(config.cache, manifest.name).storage.check_writable()
    finished = set()
    for task in [task for task in tasks if task.spec is not MASKS]:
        if stale_images(task, records):
            task.open()  # refuses checkpoints that do not fit
        elif task.artefact().exists():
            finished.add(task.spec.kind)
            task.create_artefact()  # its root may be damaged
    return [
        Report(task.artefact(), len(records))
        if task.spec.kind in finished
        else bring_up_to_date(task, records, execution, progress)
        for task in tasks
    ]


def check(manifest: Manifest, config: Config) -> None:
    """Raises `UserError` for data and settings that stage one cannot work with."""
    if manifest.settings.projection != "erp":
        raise UserError(
            f"{manifest.path}: projection: found {manifest.settings.projection!r}, expected erp; "
            f"views wrap round the seam"
        )
    for family in config.sam.views.families:
        if family.kind == "whole" and not family.padding:
            raise UserError(
                "config: sam.views: found kind whole with padding 0, expected some padding (a quarter of the width, "
                "say): objects on the seam would be cut"
            )
