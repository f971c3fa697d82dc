"""Train a TA of the demo from nothing: `python -m demo.teachers.train --out DIR --which resnet_fpn`.

Renders the labelled photos that are missing, trains by the train stage (a stopped run goes on where it was), writes
the weights and, from figures measured on the spot, the model card.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from demo.teachers.data import MEASURING, TRAINING, complete_world, write_manifest
from demo.teachers.recipes import RECIPES, WEIGHTS, Recipe, chosen_recipe
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
    """Train on the photos of a rendered world, or go on with it; returns the last checkpoint.

    `start` are weights to begin with instead of random ones, under a schedule of its own: a finished training goes
    on so, in another `work_dir` (its learning rate has decayed to 0). `threads` are torch's, for the rest of the
    process.
    """
    import torch

    from demo.teachers import augment  # noqa: F401 (registers the crop and the hook)
    from stages.train.run import train

    torch.set_num_threads(threads)
    manifest = write_manifest(work_dir / "demo_source.yaml", world, TRAINING)
    space = manifest.label_space
    return train(
        recipe.config,
        {
            "type": "pipeline.data.samples:open_labels",
            "manifest": str(manifest.path.absolute()),
            "splits": list(TRAINING),
        },
        work_dir,
        classes=space.classes,
        palette=space.palette,
        ignore_index=space.ignore_index,
        label_space=space.name,
        schedule="schedule_demo",
        max_iters=iterations or recipe.iterations,
        batch_size=recipe.batch_size,
        device="cpu",
        resume=True,
        load_from=start,
        overrides=recipe.overrides(),
    )


def main(
    out: Annotated[Path, typer.Option(help="Work folder; each TA's checkpoints and logs get a folder in it.")],
    which: Annotated[str, typer.Option(help=f"{' or '.join(RECIPES)}.")] = next(iter(RECIPES)),
    iterations: Annotated[int | None, typer.Option(min=1, help="Optimiser steps; default: the recipe's.")] = None,
    start: Annotated[
        Path | None, typer.Option(help="Weights to begin with, e.g. those of a finished training with another --out.")
    ] = None,
    world: Annotated[Path, typer.Option(help="The rendered demo world; what is missing is rendered.")] = Path(
        "demo_world"
    ),
    weights: Annotated[Path, typer.Option(help="Folder for the weights and the model card.")] = WEIGHTS,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the training.")] = 1,
) -> None:
    """Train, export and measure one TA; half an hour on one idle core."""
    from demo.teachers.evaluate import measure, report
    from demo.teachers.export import export_weights, model_card, read_training
    from pipeline.core.cli import echo, print_json

    try:
        recipe = chosen_recipe(which)
        with console_progress() as progress:
            made = complete_world(world, {**TRAINING, **MEASURING}, progress)
        checkpoint = train_teacher(
            recipe, world, out / recipe.name, iterations=iterations, start=start, threads=threads
        )
        file = weights / recipe.weights.name
        size = export_weights(checkpoint, file)
        with console_progress() as progress:
            scores = measure(recipe, file, world, progress)
    except UserError as error:
        echo(str(error))
        raise typer.Exit(2) from None
    training = read_training(out / recipe.name)
    card = file.with_suffix(".md")
    card.write_text(model_card(recipe, made, training, size, scores, start))
    echo(f"weights: {file}\nmodel card: {card}")
    print_json({"teacher": recipe.name, "checkpoint": str(checkpoint), "bytes": size, **report({recipe.name: scores})})


if __name__ == "__main__":
    typer.run(main)
