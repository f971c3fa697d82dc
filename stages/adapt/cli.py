"""Command line of `adapt`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.cli import SOME_IMAGES_FAILED, echo, print_json, print_table
from stages.options import CacheOption, ConfigOption, FusionOption, ManifestOption, SetOption, WorkersOption, read_run


def command(
    manifest: ManifestOption = None,
    config: ConfigOption = None,
    fusion: FusionOption = None,
    set_: SetOption = None,
    cache: CacheOption = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds, each beginning where the last ended.")] = 1,
    work_dir: Annotated[Path, typer.Option("--work-dir", help="Adapted TAs get a folder each below it.")] = Path(
        "work_dirs"
    ),
    workers: WorkersOption = 1,
) -> None:
    """Fine-tunes the TA on the ensemble, then fuses again.

    Only the TA's logits are computed again; SAM never runs.
    """
    from pipeline.core.progress import console_progress
    from stages.adapt.stage import adapt

    data, settings = read_run(manifest, config, set_, cache, fusion)
    echo(f"{data.name}: {rounds} rounds of {settings.adapt.iterations} steps, TA and fusion as in the settings")

    ended = []

    def run_stage(stage: str, options: Sequence[str]) -> None:
        ended.append(_run(stage, [*options, "--workers", str(workers)]))

    with console_progress() as progress:
        finished = adapt(data, settings, rounds, work_dir, run_stage, progress=progress)
    print_table(
        "adapt: weighted terms, first -> last tenth of the steps",
        ["round", "teacher", "fused", *finished[0].losses],
        [[r.number, r.teacher, r.fused, *(f"{a:.3f} -> {b:.3f}" for a, b in r.losses.values())] for r in finished],
    )
    echo(f"next: make train, or make evaluate, with CONFIG={finished[-1].config}")
    print_json(
        {
            "stage": "adapt",
            "rounds": [
                {"teacher": r.teacher, "fused": r.fused, "parent": r.parent_teacher, "config": str(r.config)}
                for r in finished
            ],
        }
    )
    if any(ended):
        raise typer.Exit(SOME_IMAGES_FAILED)


def _run(stage: str, options: Sequence[str]) -> int:
    """The stage's own command, as a user would type it; its exit status, 0 or that of some images that failed."""
    import subprocess
    import sys

    from pipeline.core.errors import UserError

    ended = subprocess.run([sys.executable, "-m", "pipeline", stage, *options], check=False).returncode
    if ended not in (0, SOME_IMAGES_FAILED):
        raise UserError(f"adapt: {stage} ended with exit status {ended}; its messages say why")
    return ended
