"""Command line of stage three."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pipeline.core.cli import Result, echo, echo_hint
from stages.options import FusionOption, RunOptions, WorkDirOption, option


def command(
    run: RunOptions,
    fusion: FusionOption = None,
    split: Annotated[str | None, option("--split", "Split of the manifest to train on (train.split).", "NAME")] = None,
    student: Annotated[
        str | None, option("--student", "goodsam_m, goodsam_t, goodsam_s or an mmsegmentation config.", "NAME")
    ] = None,
    iterations: Annotated[int | None, option("--iterations", "Optimiser steps (train.iterations).", "N", min=1)] = None,
    work_dir: WorkDirOption = Path("work_dirs"),
    allow_partial: Annotated[bool, option("--allow-partial", "Leave out panoramas that are not fused.")] = False,
    fresh: Annotated[bool, option("--fresh", "Start anew instead of from the last checkpoint.")] = False,
    distributed: Annotated[
        bool, option("--distributed", "Started by torchrun, one process per GPU, or on CPUs.")
    ] = False,
) -> Result | None:
    """Stage three: trains the student on the cached ensemble.

    A stopped run continues from its last checkpoint. With `--set train.tensorboard=true`, `tensorboard --logdir
    work_dirs` shows scalars and sample pictures.
    """
    from pipeline.core.progress import console_progress
    from stages.train.stage import read_corrections, run_folder, train_student

    run = run.with_settings({"train.split": split, "train.student": student, "train.iterations": iterations})
    data, settings = run.read(fusion)
    corrections = read_corrections(data, settings)
    processes = int(os.environ.get("WORLD_SIZE", "1")) if distributed else 1
    folder = run_folder(work_dir, data, settings, processes, corrections)
    with console_progress() as progress:
        checkpoint = train_student(
            data,
            settings,
            folder,
            corrections=corrections,
            allow_partial=allow_partial,
            fresh=fresh,
            distributed=distributed,
            progress=progress,
        )
    if os.environ.get("RANK", "0") != "0":
        return None
    echo(f"student: {checkpoint}")
    echo_hint("predict, export or evaluate with this checkpoint")
    figures = {"stage": "train", "student": settings.train.student, "checkpoint": str(checkpoint)}
    return Result({**figures, "corrected": len(corrections.files)})
