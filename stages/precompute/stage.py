"""Stage one as a whole: selects the artefacts to compute, checks the settings, and runs the tasks."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.cache import Cache
from pipeline.cache.incremental import CacheTask, Report, find_stale_images, update_artefact
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
    """Computes the images of the artefacts `sam`, `masks` and `teacher` that are missing or stale.

    `splits` and `only` (kinds of artefacts) select some, by default all. `by_content` compares image files by digest
    and not by size and time. The reports give the reason for each image that failed. Raises `UserError`, before any
    image is computed, if settings, checkpoints or the cache cannot work.
    """
    progress = progress or SilentProgress()
    check(manifest, config)
    records = execution.select(manifest.select(splits))
    tasks = []
    for kind in [kind for kind in TASKS if not only or kind in only]:
        task = TASKS[kind](config, manifest.preprocessing, manifest.name, by_content)
        external = task.artefacts.external(kind) is not None
        if external or task.artefact().exists():
            task.artefact().attributes()  # raises for a missing or damaged artefact, and for another format
        if not external:
            tasks.append(task)
    Cache(config.cache, manifest.name).storage.check_writable()
    finished = set()
    for task in [task for task in tasks if task.spec is not MASKS]:
        if find_stale_images(task, records):
            task.setup()  # raises for checkpoints that do not fit
        elif task.artefact().exists():
            finished.add(task.spec.kind)
            task.create_artefact()  # its root group may be damaged
    return [
        Report(task.artefact(), len(records))
        if task.spec.kind in finished
        else update_artefact(task, records, execution, progress)
        for task in tasks
    ]


def check(manifest: Manifest, config: Config) -> None:
    """Raises `UserError` for data and settings that stage one cannot process."""
    if manifest.settings.projection != "erp":
        raise UserError(
            f"{manifest.path}: projection: found {manifest.settings.projection!r}, expected erp; views wrap around in x"
        )
    for family in config.sam.views.families:
        if family.kind == "whole" and not family.padding:
            raise UserError(
                "config: sam.views: found kind whole with padding 0, expected for instance a quarter of the width: "
                "objects on the seam would be cut"
            )
