"""Command line of stage three."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.cli import echo, print_json
from stages.options import (
    CacheOption,
    ConfigOption,
    FusionOption,
    ManifestOption,
    SetOption,
    read_run,
    run_overrides,
    with_demo,
)


def command(
    manifest: ManifestOption = None,
    config: ConfigOption = None,
    fusion: FusionOption = None,
    student: Annotated[
        str | None, typer.Option("--student", help="goodsam_m, goodsam_t, goodsam_s or an mmsegmentation config.")
    ] = None,
    iterations: Annotated[int | None, typer.Option("--iterations", min=1, help="Optimiser steps.")] = None,
    set_: SetOption = None,
    cache: CacheOption = None,
    work_dir: Annotated[
        Path, typer.Option("--work-dir", help="Each run has a folder below it, named by settings and panoramas.")
    ] = Path("work_dirs"),
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Leave out panoramas that are not fused.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew instead of from the last checkpoint.")] = False,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="Started by torchrun, one process a GPU, or on CPUs.")
    ] = False,
) -> None:
    """Stage three: trains the student on the cached ensemble.

    A run that was stopped goes on from its last checkpoint.
    """
    from stages.train.stage import run_folder, train_student

    changes = list(set_ or [])
    if student is not None:
        changes.append(f"train.student={student}")
    if iterations is not None:
        changes.append(f"train.iterations={iterations}")
    data, settings = read_run(manifest, config, changes, cache, fusion)
    _, config = with_demo(manifest, config)
    folder = run_folder(work_dir, data, settings, int(os.environ.get("WORLD_SIZE", "1")) if distributed else 1)
    spec = {
        "type": "stages.train.reader:open_cache",
        "manifest": str(data.path.absolute()),
        "config": str(config.absolute()) if config is not None else None,
        "overrides": run_overrides(config, changes, cache, fusion),
        "splits": [settings.train.split],
    }
    checkpoint = train_student(
        data, settings, spec, folder, allow_partial=allow_partial, fresh=fresh, distributed=distributed
    )
    if os.environ.get("RANK", "0") != "0":
        return
    echo(f"student: {checkpoint}")
    echo("next: make predict, or make evaluate, with this checkpoint")
    print_json({"stage": "train", "student": settings.train.student, "checkpoint": str(checkpoint)})
