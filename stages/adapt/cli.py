"""Command line of `adapt`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pipeline.core.cli import SOME_IMAGES_FAILED, Result, echo, echo_hint, print_table, run_command
from pipeline.core.errors import UserError
from stages.options import FusionOption, RunOptions, WorkDirOption, WorkersOption, option


def command(
    run: RunOptions,
    fusion: FusionOption = None,
    rounds: Annotated[
        str,
        option(
            "--rounds",
            "Rounds of training, each from the TA of the last; auto: while the expected mIoU rises clearly; 0: only "
            "adapt.scale and adapt.statistics.",
            "N|auto",
        ),
    ] = "auto",
    work_dir: WorkDirOption = Path("work_dirs"),
    workers: WorkersOption = 1,
    processes: Annotated[
        int, option("--processes", "GPUs, or processes on a CPU, that train the TA together.", "N", min=1)
    ] = 1,
) -> Result:
    """Adapts the TA to the panoramas, then fuses again.

    Needs no labels. Round 0 chooses the scale of the TA's input and its batch-norm statistics; the others train the TA
    on the ensemble. Only the TA's logits are computed again; SAM never runs.
    """
    from pipeline.core.progress import console_progress
    from stages.adapt.stage import adapt, best_round

    count = _parse_rounds(rounds)
    data, settings = run.read(fusion)
    work = "while the expected mIoU rises" if count == "auto" else str(count)
    echo(f"{data.name}: rounds: {work}, of {settings.adapt.iterations} steps")
    statuses = []

    def run_stage(stage: str, options: Sequence[str]) -> None:
        status = run_command(stage, *options, "--workers", str(workers)).returncode
        if status not in (0, SOME_IMAGES_FAILED):
            raise UserError(f"adapt: {stage} ended with exit status {status}; its messages above give the reason")
        statuses.append(status)

    with console_progress() as progress:
        finished = adapt(data, settings, count, work_dir, run_stage, processes=processes, progress=progress)
    if finished:
        best = best_round(finished)
        terms = list(finished[-1].losses)
        of_terms = "; weighted terms, first -> last tenth of the steps" if terms else ""
        print_table(
            f"adapt: expected mIoU (no labels){of_terms}",
            ["round", "expected TA", "expected E", "fused", *terms],
            [
                [
                    f"{r.number}{' (best)' if r is best else ''}", r.expected_ta, r.expected, r.fused,
                    *(_first_to_last(r.losses.get(term)) for term in terms),
                ]
                for r in finished
            ],
        )  # fmt: skip
        echo_hint(f"train or evaluate with --config {best.config}")
    figures = [
        {
            "round": r.number, "teacher": r.teacher, "fused": r.fused, "parent": r.parent_teacher,
            "config": str(r.config), "expected_ta": round(r.expected_ta, 2), "expected": round(r.expected, 2),
        }
        for r in finished
    ]  # fmt: skip
    chosen = str(best_round(finished).config) if finished else None
    return Result({"stage": "adapt", "rounds": figures, "config": chosen}, failed=any(statuses))


def _parse_rounds(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise UserError(f"--rounds: found {text!r}; expected auto or a number from 0")
    return int(text)


def _first_to_last(values: Sequence[float] | None) -> str:
    return "-" if values is None else f"{values[0]:.3f} -> {values[1]:.3f}"
