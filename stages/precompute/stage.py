"""Stage one as a whole: what there is to do, in which order, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.executor import Execution
from pipeline.manifests import ImageRecord, Manifest
from pipeline.progress import Progress, SilentProgress
from pipeline.runs import Report, bring_up_to_date, stale_by_file, stale_by_inputs
from pipeline.store import Artefact, Cache
from pipeline.tasks import CacheTask
from stages.precompute.tasks import MasksTask, SamTask, TeacherTask

TASKS: dict[str, type[CacheTask]] = {"sam": SamTask, "masks": MasksTask, "teacher": TeacherTask}
TITLES = {"sam": "masks of the views", "masks": "panorama masks", "teacher": "TA logits"}


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
    """Brings the artefacts ``sam``, ``masks`` and ``teacher`` (or ``only`` some) up to date.

    Images that are done are left alone; ``by_content`` compares every image file with its digest, not with its size and
    time. Raises :class:`UserError` before any work if settings, checkpoints or the cache
    cannot work; an image that cannot be processed is recorded and reported.
    """
    progress = progress or SilentProgress()
    check(manifest, config)
    cache = Cache(config.cache, manifest.name)
    records = execution.select(manifest.select(splits))
    artefacts = config.artefacts(manifest.preparation)
    # an artefact made elsewhere must be there; nothing is computed for it
    kinds = [kind for kind in TASKS if not only or kind in only]
    for kind in [k for k in kinds if getattr(config, k).artefact is not None]:
        cache.artefact(kind, artefacts.key(kind)).attributes()
    tasks = [
        TASKS[kind](config, manifest.preparation, manifest.name, by_content=by_content)
        for kind in kinds
        if getattr(config, kind).artefact is None
    ]
    for task in tasks:  # missing files and other formats are told here, and wrong checkpoints below
        if task.artefact().exists():
            task.artefact().attributes()
    cache.storage.check_writable()
    finished = set()
    for task in [task for task in tasks if task.kind != "masks"]:
        if stale_by_file(task.artefact(), records, by_content=by_content):
            task.open()
        elif task.artefact().exists():
            finished.add(task.kind)
    for task in tasks:
        if task.kind in finished:
            task.create_artefact(**_described(task))  # its root may be damaged
    return [
        Report(task.artefact(), len(records)) if task.kind in finished else _run(task, records, execution, progress)
        for task in tasks
    ]


def check(manifest: Manifest, config: Config) -> None:
    """Raises :class:`UserError` for data and settings that stage one cannot work with."""
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


def _run(task: CacheTask, records: Sequence[ImageRecord], execution: Execution, progress: Progress) -> Report:
    def stale(artefact: Artefact) -> list[ImageRecord]:
        if task.kind == "masks":
            return stale_by_inputs(artefact, {"sam": task.artefact("sam")}, records)
        return stale_by_file(artefact, records, by_content=task.by_content)

    return bring_up_to_date(task, stale, records, execution, progress, TITLES[task.kind], **_described(task))


def _described(task: CacheTask) -> dict[str, Any]:
    """Attributes of the artefact's root group, besides those that all have."""
    if task.kind != "teacher":
        return {}
    space = task.config.teacher_space()
    return {"classes": list(space.classes), "label_space": space.name}
