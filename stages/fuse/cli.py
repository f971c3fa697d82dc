"""Command line of stage two."""

from __future__ import annotations

from pipeline.core.cli import Result, echo, echo_hint
from stages.options import ExecutionOptions, FusionOption, RunOptions, SplitOption


def command(
    run: RunOptions, fusion: FusionOption = None, split: SplitOption = None, *, execution: ExecutionOptions
) -> Result:
    """Stage two: computes the ensemble from the cached arrays.

    The ensemble holds labels, weights, refined boundaries and the stitched prediction.
    """
    from pipeline.core.progress import console_progress
    from stages.fuse.stage import fuse

    data, settings = run.read(fusion)
    with console_progress() as progress:
        report = fuse(data, settings, splits=split or (), execution=execution.execution(), progress=progress)
    echo(
        f"fused/{report.artefact.key} (rule {settings.fusion.rule.kind}): {report.total} panoramas, "
        f"{report.computed} computed, {report.reused} reused, {len(report.failures)} failed"
    )
    echo(f"in {report.artefact}")
    execution.echo_shard()
    options = {f"--fusion {fusion}": fusion, "--set": run.set_, "--cache": run.cache}
    same = ", ".join(["--manifest", "--config", *(option for option, value in options.items() if value)])
    echo_hint(f"train, or evaluate where there are labels, with the same {same}")
    figures = {
        "stage": "fuse",
        "rule": settings.fusion.rule.kind,
        "key": report.artefact.key,
        "panoramas": report.total,
        "computed": report.computed,
        "reused": report.reused,
        "failed": len(report.failures),
    }
    return Result(figures, failed=bool(report.failures))
