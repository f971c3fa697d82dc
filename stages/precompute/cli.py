"""Command line of stage one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.core.cli import SOME_IMAGES_FAILED, echo, print_json, print_table
from stages.options import (
    CacheOption,
    ConfigOption,
    ManifestOption,
    SchedulerOption,
    SetOption,
    ShardOption,
    SplitOption,
    ThreadsOption,
    WorkersOption,
    execution,
    read_run,
)

if TYPE_CHECKING:
    from pipeline.cache.incremental import Report
    from pipeline.data.images import ImagePreprocessing
    from pipeline.data.manifests import ImageRecord
    from stages.config import Config


def command(
    manifest: ManifestOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    cache: CacheOption = None,
    split: SplitOption = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Only sam, masks or teacher. Repeatable.")] = None,
    check_content: Annotated[
        bool,
        typer.Option("--check-content", help="Compare image files by digest: finds one replaced with its time kept."),
    ] = False,
    workers: WorkersOption = 1,
    threads: ThreadsOption = 1,
    scheduler: SchedulerOption = None,
    shard: ShardOption = None,
) -> None:
    """Stage one: SAM masks, boundaries and TA logits -> the cache.

    What is in the cache already is left alone; killed at any instant, the same command goes on from there.
    """
    from pipeline.core.errors import UserError
    from pipeline.core.progress import console_progress
    from stages.precompute.stage import TASKS, precompute

    if unknown := set(only or ()) - set(TASKS):
        raise UserError(f"--only: found {sorted(unknown)[0]!r}, expected one of {', '.join(TASKS)}")
    data, settings = read_run(manifest, config, set_, cache)
    how = execution(workers, threads, scheduler, shard)
    records = how.select(data.select(split or ()))
    echo(f"{data.name}: {len(records)} panoramas from {data.root}")
    budget, free = _budget_mib(records, data.preprocessing, settings) * len(records), _free_mib(settings.cache)
    echo(
        f"cache: {settings.cache}/{data.name}, at most about {budget:.0f} MiB"
        + (f"; {free:.0f} MiB free" if free else "")
    )
    if free is not None and free < budget:
        echo("this may not fit: choose another place with --cache (CACHE=... for make), or make room")
    with console_progress() as progress:
        reports = precompute(
            data,
            settings,
            splits=split or (),
            only=only or (),
            by_content=check_content,
            execution=how,
            progress=progress,
        )
    print_table(
        "precompute",
        ["artefact", "panoramas", "computed", "reused", "failed"],
        [[f"{r.artefact.kind}/{r.artefact.key}", r.wanted, r.computed, r.reused, len(r.failures)] for r in reports],
    )
    for report in reports:
        if report.computed:
            echo(_pace(report))
    failed = {image_id for report in reports for image_id in report.failures}
    if failed:
        panoramas = "panorama" if len(failed) == 1 else "panoramas"
        echo(f"{len(failed)} {panoramas} failed; `make inspect ARGS=--failed` tells why, the next run tries again")
    echo("next: make fuse with the same MANIFEST and CONFIG")
    print_json(
        {
            "stage": "precompute",
            "panoramas": len(records),
            "failed": len(failed),
            **{
                report.artefact.kind: {
                    "key": report.artefact.key,
                    "computed": report.computed,
                    "reused": report.reused,
                    "images_per_s": round(report.computed / report.seconds, 3) if report.computed else None,
                    "seconds_each": [round(seconds, 4) for seconds in report.steps],
                }
                for report in reports
            },
        }
    )
    if failed:
        raise typer.Exit(SOME_IMAGES_FAILED)


def _pace(report: Report) -> str:
    """How fast an artefact was made, and what waited for what."""
    from pipeline.execution.executor import STEPS

    text = f"{report.artefact.kind}: {report.computed / report.seconds:.2f} panoramas/s"
    if len(report.steps) != len(STEPS):
        return text
    slowest = STEPS[report.steps.index(max(report.steps))]
    each = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in zip(STEPS, report.steps, strict=True))
    return f"{text}; each: {each}; {slowest} is what the others wait for"


def _budget_mib(records: Sequence[ImageRecord], preprocessing: ImagePreprocessing, config: Config) -> float:
    """The format's budget for a panorama of the size of the first that can be opened.

    6 MiB at 400 x 2048 where the views of SAM and TA each cover it twice, in proportion to pixels and coverage.
    """
    from pipeline.core.errors import ImageError
    from pipeline.data.images import prepared_size
    from pipeline.geometry.views import make_views

    for record in records:
        try:
            height, width = prepared_size(record.path, preprocessing)
        except ImageError:
            continue
        views = [view for part in (config.sam.views, config.teacher.views) for view in make_views(part, height, width)]
        return 6 * sum(view.height * view.width for view in views) / 4 / (400 * 2048)
    return 0.0


def _free_mib(cache: str) -> float | None:
    """Free space where the cache is; None of an object store."""
    if "://" in cache:
        return None
    folder = Path(cache).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 2**20
