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
    rounds: Annotated[int, option("--rounds", "Rounds, each starting from the TA of the last.", "N", min=1)] = 1,
    work_dir: WorkDirOption = Path("work_dirs"),
    workers: WorkersOption = 1,
) -> Result:
    """Fine-tunes the TA on the ensemble, then fuses again.

    Only the TA's logits are computed again; SAM never runs.
    """
    from pipeline.core.progress import console_progress
    from stages.adapt.stage import adapt

    data, settings = run.read(fusion)
    echo(f"{data.name}: {rounds} rounds of {settings.adapt.iterations} steps, TA and fusion as in the settings")
    statuses = []

    def run_stage(stage: str, options: Sequence[str]) -> None:
        status = run_command(stage, *options, "--workers", str(workers)).returncode
        if status not in (0, SOME_IMAGES_FAILED):
            raise UserError(f"adapt: {stage} ended with exit status {status}; its messages above give the reason")
        statuses.append(status)

    with console_progress() as progress:
        finished = adapt(data, settings, rounds, work_dir, run_stage, progress=progress)
    print_table(
        "adapt: weighted terms, first -> last tenth of the steps",
        ["round", "teacher", "fused", *finished[0].losses],
        [[r.number, r.teacher, r.fused, *(f"{a:.3f} -> {b:.3f}" for a, b in r.losses.values())] for r in finished],
    )
    echo_hint(f"train or evaluate with --config {finished[-1].config}")
    figures = [
        {"teacher": r.teacher, "fused": r.fused, "parent": r.parent_teacher, "config": str(r.config)} for r in finished
    ]
    return Result({"stage": "adapt", "rounds": figures}, failed=any(statuses))
