"""Command line of stage two."""

from __future__ import annotations

import typer

from pipeline.core.cli import SOME_IMAGES_FAILED, echo, print_json
from stages.options import (
    CacheOption,
    ConfigOption,
    FusionOption,
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


def command(
    manifest: ManifestOption = None,
    config: ConfigOption = None,
    fusion: FusionOption = None,
    set_: SetOption = None,
    cache: CacheOption = None,
    split: SplitOption = None,
    workers: WorkersOption = 1,
    threads: ThreadsOption = 1,
    scheduler: SchedulerOption = None,
    shard: ShardOption = None,
) -> None:
    """Stage two: DAR over the cached arrays -> the ensemble.

    The ensemble: labels, weights, refined boundaries and the stitched prediction.
    """
    from pipeline.core.progress import console_progress
    from stages.fuse.stage import fuse

    data, settings = read_run(manifest, config, set_, cache, fusion)
    how = execution(workers, threads, scheduler, shard)
    with console_progress() as progress:
        report = fuse(data, settings, splits=split or (), execution=how, progress=progress)
    echo(
        f"fused/{report.artefact.key} (rule {settings.fusion.rule.kind}): {report.wanted} panoramas, "
        f"{report.computed} computed, {report.reused} reused, {len(report.failures)} failed"
    )
    echo(f"in {report.artefact}")
    given = {"MANIFEST": True, "CONFIG": True, f"FUSION={fusion}": fusion, "SET": set_, "CACHE": cache}
    same = " and ".join(name for name, value in given.items() if value)
    echo(f"next: make train, or make evaluate where there are labels, with the same {same}")
    print_json(
        {
            "stage": "fuse",
            "rule": settings.fusion.rule.kind,
            "key": report.artefact.key,
            "panoramas": report.wanted,
            "computed": report.computed,
            "reused": report.reused,
            "failed": len(report.failures),
        }
    )
    if report.failures:
        raise typer.Exit(SOME_IMAGES_FAILED)
