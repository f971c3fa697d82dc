"""Command line of stage one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pipeline.core.cli import Result, echo, echo_hint, free_mib, print_table
from stages.options import ExecutionOptions, RunOptions, SplitOption, option

if TYPE_CHECKING:
    from pipeline.cache.incremental import Report
    from pipeline.data.images import ImagePreprocessing
    from pipeline.data.manifests import ImageRecord
    from stages.config import Config


def command(
    run: RunOptions,
    split: SplitOption = None,
    only: Annotated[list[str] | None, option("--only", "Only sam, masks or teacher. Repeatable.", "KIND")] = None,
    check_content: Annotated[
        bool, option("--check-content", "Compare image files by digest: finds replaced files of equal time.")
    ] = False,
    *,
    execution: ExecutionOptions,
) -> Result:
    """Stage one: computes SAM masks, boundaries and TA logits.

    They go to the cache. Only what is missing is computed; after a kill, the same command continues from there.
    """
    from pipeline.core.errors import UserError
    from pipeline.core.progress import console_progress
    from stages.precompute.stage import TASKS, precompute

    kinds, splits = only or (), split or ()
    if unknown := set(kinds) - set(TASKS):
        raise UserError(f"--only: found {sorted(unknown)[0]!r}; expected one of {', '.join(TASKS)}")
    data, settings = run.read()
    how = execution.execution()
    records = how.select(data.select(splits))
    echo(f"{data.name}: {len(records)} panoramas from {data.root}")
    budget, free = _budget_mib(records, data.preprocessing, settings) * len(records), free_mib(settings.cache)
    free_space = f"; {free:.0f} MiB free" if free else ""
    echo(f"cache: {settings.cache}/{data.name}, at most about {budget:.0f} MiB{free_space}")
    if free is not None and free < budget:
        echo("this may not fit: choose another place with --cache (CACHE=... for make), or free some space")
    with console_progress() as progress:
        reports = precompute(
            data, settings, splits=splits, only=kinds, by_content=check_content, execution=how, progress=progress
        )
    print_table(
        "precompute",
        ["artefact", "panoramas", "computed", "reused", "failed"],
        [[f"{r.artefact.kind}/{r.artefact.key}", r.total, r.computed, r.reused, len(r.failures)] for r in reports],
    )
    for report in reports:
        if report.computed:
            echo(_describe_pace(report))
    execution.echo_shard()
    failed = {image_id for report in reports for image_id in report.failures}
    if failed:
        panoramas = "panorama" if len(failed) == 1 else "panoramas"
        echo(f"{len(failed)} {panoramas} failed; `inspect --failed` lists the reasons, the next run tries again")
    echo_hint("fuse with the same --manifest and --config")
    by_kind = {
        report.artefact.kind: {
            "key": report.artefact.key,
            "computed": report.computed,
            "reused": report.reused,
            "images_per_s": round(report.computed / report.seconds, 3) if report.computed else None,
            "seconds_each": [round(seconds, 4) for seconds in report.steps],
        }
        for report in reports
    }
    figures = {"stage": "precompute", "panoramas": len(records), "failed": len(failed), **by_kind}
    return Result(figures, failed=bool(failed))


def _describe_pace(report: Report) -> str:
    """The rate of an artefact, and which step limits it."""
    from pipeline.core.progress import describe_rate
    from pipeline.execution.task import STEPS

    text = f"{report.artefact.kind}: {describe_rate(report.computed, report.seconds, 'panorama')}"
    if len(report.steps) != len(STEPS):
        return text
    slowest = STEPS[report.steps.index(max(report.steps))]
    steps = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in zip(STEPS, report.steps, strict=True))
    return f"{text}; each: {steps}; {slowest} limits the rate"


def _budget_mib(records: Sequence[ImageRecord], preprocessing: ImagePreprocessing, config: Config) -> float:
    """The format's size limit in MiB for a panorama of the size of the first that can be opened.

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
