"""Trains a TA of the demo from random weights: `python -m demo.teachers.train --out DIR --which resnet_fpn`.

The command renders the missing photos, runs the train stage (an interrupted run continues where it stopped), and
writes the weights and the model card with newly measured figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from demo.teachers.data import TESTING, TRAINING, render_missing, write_manifest
from demo.teachers.recipes import RECIPES, WEIGHTS, Recipe, find_recipe
from pipeline.core.errors import UserError
from pipeline.core.progress import console_progress


def train_teacher(
    recipe: Recipe,
    world: Path,
    work_dir: Path,
    *,
    iterations: int | None = None,
    start: Path | None = None,
    threads: int = 1,
) -> Path:
    """Trains on the photos of a rendered world, or continues an interrupted training.

    Args:
        recipe: model and training.
        world: folder of the rendered world.
        work_dir: receives checkpoints and logs.
        iterations: optimiser steps; None for the recipe's.
        start: initial weights; None for random ones. The learning rate of a finished training has decayed to 0: it
            is continued from its weights in another `work_dir`.
        threads: torch threads, for the rest of the process.

    Returns:
        The last checkpoint.
    """
    import torch

    from demo.teachers import augment  # noqa: F401 (registers PhotoCrop)
    from pipeline.data.samples import LabelReader
    from stages.train.launch import launch
    from stages.train.run import TrainingRun
    from stages.train.settings import TrainSettings

    torch.set_num_threads(threads)
    manifest = write_manifest(work_dir / "demo_source.yaml", world, TRAINING)
    settings = TrainSettings(
        student=str(recipe.config),
        iterations=iterations or recipe.iterations,
        batch_size=recipe.batch_size,
        schedule="schedule_demo",
        load_from=start,
        overrides=recipe.overrides(),
        workers=0,
        memory=0,
    )
    reader = LabelReader(manifest, tuple(TRAINING))
    return launch(TrainingRun(settings, manifest.label_space, reader, work_dir, device="cpu"))


def main(
    out: Annotated[Path, typer.Option(help="Work folder; each model gets a folder in it.")],
    which: Annotated[str, typer.Option(help=f"{' or '.join(RECIPES)}.")] = next(iter(RECIPES)),
    iterations: Annotated[int | None, typer.Option(min=1, help="Optimiser steps; default: the recipe's.")] = None,
    start: Annotated[
        Path | None, typer.Option(help="Initial weights, e.g. those of a finished training with another --out.")
    ] = None,
    world: Annotated[Path, typer.Option(help="Folder of the demo world; missing images are rendered.")] = Path(
        "demo_world"
    ),
    weights: Annotated[Path, typer.Option(help="Folder for the weights and the model card.")] = WEIGHTS,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the training.")] = 1,
) -> None:
    """Train, export and measure one model; half an hour on one idle core."""
    from demo.teachers.evaluate import measure, report
    from demo.teachers.export import export_weights, model_card, read_training_log
    from pipeline.core.cli import echo, print_json

    try:
        recipe = find_recipe(which)
        with console_progress() as progress:
            settings = render_missing(world, {**TRAINING, **TESTING}, progress)
        work_dir = out / recipe.name
        checkpoint = train_teacher(recipe, world, work_dir, iterations=iterations, start=start, threads=threads)
        file = weights / recipe.weights.name
        size = export_weights(checkpoint, file)
        with console_progress() as progress:
            scores = measure(recipe, file, world, progress)
    except UserError as error:
        echo(str(error))
        raise typer.Exit(2) from None
    card = file.with_suffix(".md")
    card.write_text(model_card(recipe, settings, read_training_log(work_dir), size, scores, start))
    echo(f"weights: {file}\nmodel card: {card}")
    print_json({"teacher": recipe.name, "checkpoint": str(checkpoint), "bytes": size, **report({recipe.name: scores})})


if __name__ == "__main__":
    typer.run(main)
