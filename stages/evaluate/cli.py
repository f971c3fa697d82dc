"""Command line of `evaluate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pipeline.core.cli import Result, echo, print_table
from stages.options import LabelSpaceOption, RunOptions, SplitOption, option


def command(
    run: RunOptions,
    fusion: Annotated[
        list[str] | None, option("--fusion", "Fusion rule to score. Repeatable. Default: the settings'.", "RULE")
    ] = None,
    split: SplitOption = None,
    student: Annotated[list[Path] | None, option("--student", "A student's checkpoint. Repeatable.", "FILE")] = None,
    pseudo_labels: Annotated[
        bool, option("--pseudo-labels/--no-pseudo-labels", "Score the cached ensemble and the TA.")
    ] = True,
    label_space: LabelSpaceOption = None,
    out: Annotated[Path | None, option("--out", "A JSON file for all figures, also of single images.", "FILE")] = None,
) -> Result:
    """Scores pseudo-labels and students against labels.

    mIoU (as mmsegmentation computes it), boundaries, calibration, and the weight map. Without labels: the mIoU that
    the probabilities promise.
    """
    from pipeline.core.atomic_files import write_text
    from pipeline.core.progress import console_progress
    from pipeline.data.labels import load_label_space
    from stages.evaluate.score import largest_changes, round_figures, table
    from stages.evaluate.stage import evaluate

    rules: Sequence[str | None] = fusion or [None]
    runs = [run.read(rule) for rule in rules]
    data = runs[0][0]
    with console_progress() as progress:
        scores, failures = evaluate(
            data,
            [settings for _, settings in runs],
            splits=split or (),
            students=student or (),
            pseudo_labels=pseudo_labels,
            label_space=label_space,
            progress=progress,
        )
    space = load_label_space(label_space) if label_space else data.label_space
    print_table(f"{data.name}, {scores[0].images} images, {space.name}: IoU in percent", *table(scores, space))
    for score in scores:
        if score.unreachable:
            echo(f"{score.name}: not scored on {', '.join(score.unreachable)}: its classes do not map to them")
    if pseudo_labels:
        ensemble = scores[len(runs)]  # of the last rule
        if changes := largest_changes(scores[0], ensemble):
            print_table(
                f"mIoU, {ensemble.name}: largest gains and losses",
                ["panorama", "before", "after", "gain"],
                [[name, before, after, after - before] for name, before, after in changes],
            )
    figures = {"stage": "evaluate", "label_space": space.name, "failed": len(failures)}
    figures |= {s.name: s.figures() for s in scores}
    if out is not None:
        images = {s.name: round_figures(s.by_image) for s in scores}
        write_text(out, json.dumps({**figures, "mIoU_by_image": images, "failures": failures}, indent=1))
        echo(f"figures of single panoramas: {out}")
    return Result(figures, failed=bool(failures))
