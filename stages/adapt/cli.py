"""Command line of `adapt`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pipeline.core.cli import SOME_IMAGES_FAILED, Result, echo, echo_hint, print_table, run_command
from pipeline.core.errors import UserError
from stages.options import FusionOption, RunOptions, WorkDirOption, WorkersOption, option


def command(
    run: RunOptions,
    fusion: FusionOption = None,
    rounds: Annotated[
        int, option("--rounds", "Rounds, each starting from the TA of the last; 0: only adapt.statistics.", "N", min=0)
    ] = 1,
    work_dir: WorkDirOption = Path("work_dirs"),
    workers: WorkersOption = 1,
) -> Result:
    """Fine-tunes the TA on the ensemble, then fuses again.

    Only the TA's logits are computed again; SAM never runs.
    """
    from pipeline.core.progress import console_progress
    from stages.adapt.stage import adapt

    data, settings = run.read(fusion)
    work = ["batch-norm statistics of the panoramas"] if settings.adapt.statistics else []
    work += [f"{rounds} rounds of {settings.adapt.iterations} steps"] if rounds else []
    echo(f"{data.name}: {', then '.join(work)}")
    statuses = []

    def run_stage(stage: str, options: Sequence[str]) -> None:
        status = run_command(stage, *options, "--workers", str(workers)).returncode
        if status not in (0, SOME_IMAGES_FAILED):
            raise UserError(f"adapt: {stage} ended with exit status {status}; its messages above give the reason")
        statuses.append(status)

    with console_progress() as progress:
        finished = adapt(data, settings, rounds, work_dir, run_stage, progress=progress)
    if finished:
        terms = list(finished[-1].losses)
        print_table(
            "adapt: weighted terms, first -> last tenth of the steps" if terms else "adapt",
            ["round", "teacher", "fused", *terms],
            [[r.number, r.teacher, r.fused, *(_first_to_last(r.losses.get(term)) for term in terms)] for r in finished],
        )
        echo_hint(f"train or evaluate with --config {finished[-1].config}")
    figures = [
        {"teacher": r.teacher, "fused": r.fused, "parent": r.parent_teacher, "config": str(r.config)} for r in finished
    ]
    return Result({"stage": "adapt", "rounds": figures}, failed=any(statuses))


def _first_to_last(values: Sequence[float] | None) -> str:
    return "-" if values is None else f"{values[0]:.3f} -> {values[1]:.3f}"
