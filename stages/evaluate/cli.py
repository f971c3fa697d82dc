"""Command line of `evaluate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.cli import SOME_IMAGES_FAILED, echo, print_json, print_table
from stages.options import CacheOption, ConfigOption, ManifestOption, SetOption, SplitOption, read_run


def command(
    manifest: ManifestOption = None,
    config: ConfigOption = None,
    fusion: Annotated[
        list[str] | None, typer.Option("--fusion", help="Fusion rule to score. Repeatable. Default: the config's.")
    ] = None,
    set_: SetOption = None,
    cache: CacheOption = None,
    split: SplitOption = None,
    student: Annotated[list[Path] | None, typer.Option("--student", help="A student's checkpoint. Repeatable.")] = None,
    pseudo_labels: Annotated[
        bool, typer.Option("--pseudo-labels/--no-pseudo-labels", help="Score the cached ensemble and the TA.")
    ] = True,
    label_space: Annotated[
        str | None, typer.Option("--label-space", help="Score in these classes instead of the manifest's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A JSON file for all figures, those of single images too.")
    ] = None,
) -> None:
    """Scores pseudo-labels and students against labels.

    mIoU (as mmsegmentation's metric has it), boundaries, calibration, and the weight map.
    """
    from pipeline.core.atomic_files import write_text
    from pipeline.core.progress import console_progress
    from pipeline.data.labels import load_label_space
    from stages.evaluate.score import best_and_worst, plain, table
    from stages.evaluate.stage import evaluate

    rules: Sequence[str | None] = fusion or [None]
    runs = [read_run(manifest, config, set_, cache, rule) for rule in rules]
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
        ensemble = scores[len(runs)]  # the last rule that was named
        print_table(
            f"mIoU, {ensemble.name}: largest gains and losses",
            ["panorama", "before", "after", "gain"],
            [[name, before, after, after - before] for name, before, after in best_and_worst(scores[0], ensemble)],
        )
    figures = {
        "stage": "evaluate",
        "label_space": space.name,
        "failed": len(failures),
        **{s.name: s.figures() for s in scores},
    }
    if out is not None:
        images = {s.name: {image: plain(value) for image, value in s.by_image.items()} for s in scores}
        write_text(out, json.dumps({**figures, "mIoU_by_image": images, "failures": failures}, indent=1))
        echo(f"figures of single panoramas: {out}")
    print_json(figures)
    if failures:
        raise typer.Exit(SOME_IMAGES_FAILED)
