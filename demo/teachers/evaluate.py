"""Measures the demo's TAs: `python -m demo.teachers.evaluate`.

A TA is measured on photos of the source domain, on whole panoramas, and on windows of panoramas whose predictions are
pooled. The panoramas pass through precompute, fuse (rule `ta`) and evaluate of the pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer

from demo.teachers.data import TESTING, render_missing, write_manifest
from demo.teachers.recipes import RECIPES, Recipe, find_recipe
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, console_progress
from pipeline.core.settings import parse_settings
from pipeline.data.images import read_image, read_labels
from pipeline.data.manifests import Manifest
from stages.config import Config
from stages.evaluate.score import Scorer, Scores

#: The views of a half-size panorama (200 x 1024) that are compared.
VIEWS: dict[str, dict[str, Any]] = {"whole": {"kind": "whole"}, "windows": {"width": 256, "stride": 128}}
_BATCH = 12


def teacher_config(recipe: Recipe, weights: Path, views: dict[str, Any], cache: Path) -> Config:
    """Returns the pipeline's settings for a TA without masks, with these settings of its views."""
    model = {"kind": "mmseg", "config": str(recipe.config), "checkpoint": str(weights)}
    return parse_settings(
        Config,
        {
            "cache": str(cache),
            "device": "cpu",
            "teacher": {"views": views, "model": model, "label_space": "cityscapes19"},
            "fusion": {"rule": "ta"},
        },
        f"TA {recipe.name}",
    )


def score_photos(recipe: Recipe, weights: Path, manifest: Manifest, progress: Progress) -> Scores:
    """Scores a TA on labelled photos of one size; the logits are upsampled bilinearly."""
    import torch

    config = teacher_config(recipe, weights, VIEWS["whole"], Path("unused"))
    infer = config.teacher.model.build("cpu")  # type: ignore[union-attr]
    scorer = Scorer("photos", config.teacher_space(), manifest.label_space, cyclic=False)
    records = manifest.select()
    progress.start(f"{recipe.name} on photos", len(records))
    for first in range(0, len(records), _BATCH):
        batch = records[first : first + _BATCH]
        images = np.stack([read_image(record.path, manifest.preprocessing) for record in batch])
        logits = torch.from_numpy(infer(images))
        full = torch.nn.functional.interpolate(logits, images.shape[1:3], mode="bilinear", align_corners=False)
        for record, probabilities in zip(batch, full.softmax(dim=1).numpy(), strict=True):
            assert record.label_path is not None
            scorer.add(probabilities, read_labels(record.label_path, manifest.preprocessing, manifest.label_space))
            progress.advance()
    return scorer.scores()


def score_panoramas(recipe: Recipe, weights: Path, manifest: Manifest, name: str, progress: Progress) -> Scores:
    """Scores a TA's stitched prediction on labelled panoramas with the views `VIEWS[name]`.

    Raises:
        UserError: an image failed.
    """
    from stages.evaluate.stage import evaluate
    from stages.fuse.stage import fuse
    from stages.precompute.stage import precompute

    with TemporaryDirectory(prefix="demo-ta-") as cache:
        config = teacher_config(recipe, weights, VIEWS[name], Path(cache))
        reports = precompute(manifest, config, only=["teacher"], progress=progress)
        for stage in (*reports, fuse(manifest, config, progress=progress)):
            if stage.failures:
                raise UserError(f"{recipe.name}: {next(iter(stage.failures.values()))}")
        scores, failures = evaluate(manifest, [config], progress=progress)
        if failures:
            raise UserError(f"{recipe.name}: {next(iter(failures.values()))}")
    return replace(scores[0], name=name)


def measure(recipe: Recipe, weights: Path, world: Path, progress: Progress) -> list[Scores]:
    """Returns scores on photos (`source-val`), whole panoramas and windows (`target-test`) of a rendered world."""
    photos = {split: n for split, n in TESTING.items() if split.startswith("source")}
    panoramas = {split: n for split, n in TESTING.items() if not split.startswith("source")}
    with TemporaryDirectory(prefix="demo-ta-") as folder:
        source = write_manifest(Path(folder) / "demo_source.yaml", world, photos)
        target = write_manifest(Path(folder) / "demo.yaml", world, panoramas)
        return [
            score_photos(recipe, weights, source, progress),
            *(score_panoramas(recipe, weights, target, name, progress) for name in VIEWS),
        ]


def report(scores: dict[str, Sequence[Scores]]) -> dict[str, Any]:
    """Returns the figures of every TA and domain as JSON values."""
    return {name: {row.name: row.figures() for row in rows} for name, rows in scores.items()}


def main(
    which: Annotated[
        list[str] | None, typer.Option(help=f"{' or '.join(RECIPES)}; may be repeated. Default: all.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Other weights than the shipped ones, of one model.")] = None,
    world: Annotated[Path, typer.Option(help="Folder of the demo world; missing images are rendered.")] = Path(
        "demo_world"
    ),
) -> None:
    """Print mIoU and IoU per class of the demo's TAs on photos, whole panoramas and windows of panoramas."""
    from pipeline.core.cli import echo, print_json, print_table
    from pipeline.data.labels import load_label_space
    from stages.evaluate.score import table

    space = load_label_space("cityscapes19")
    try:
        recipes = [find_recipe(name) for name in which or RECIPES]
        if weights is not None and len(recipes) != 1:
            raise UserError(f"--weights: found {len(recipes)} models; expected one --which")
        scores: dict[str, Sequence[Scores]] = {}
        with console_progress() as progress:
            settings = render_missing(world, TESTING, progress)
            for recipe in recipes:
                scores[recipe.name] = measure(recipe, weights or recipe.weights, world, progress)
    except UserError as error:
        echo(str(error))
        raise typer.Exit(2) from None
    for name, rows in scores.items():
        images = ", ".join(f"{row.name} {row.images}" for row in rows)
        print_table(f"TA {name}: IoU in percent ({images} images, {settings.shift} shift)", *table(rows, space))
    print_json({"benchmark": "demo_teachers", "world": settings.record(), "teachers": report(scores)})


if __name__ == "__main__":
    typer.run(main)
