"""Measure the demo's TAs: `python -m demo.teachers.evaluate`.

On photos of the source domain, on panoramas seen as a whole, and on panoramas seen through windows that are pooled
into one prediction. The panoramas go through the pipeline's own precompute, fuse (rule `ta`) and evaluate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer

from demo.teachers.data import MEASURING, complete_world, write_manifest
from demo.teachers.recipes import RECIPES, Recipe, chosen_recipe
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, console_progress
from pipeline.core.settings import parse_settings
from pipeline.data.images import read_image, read_labels
from pipeline.data.manifests import Manifest
from stages.config import Config
from stages.evaluate.score import Scorer, Scores

VIEWS: dict[str, dict[str, Any]] = {
    "whole": {"kind": "whole"},
    "windows": {"width": 256, "stride": 128},
}
"""How a TA looks at a half-size panorama (200 x 1024)."""
_BATCH = 12


def settings(recipe: Recipe, weights: Path, views: dict[str, Any], cache: Path) -> Config:
    """The pipeline's settings for a TA that looks at panoramas through `views`; no masks."""
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
    """The TA on labelled photos, all of one size; logits are brought to pixels bilinearly."""
    import torch

    config = settings(recipe, weights, VIEWS["whole"], Path("unused"))
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
    """The TA's stitched prediction of labelled panoramas, seen through `VIEWS[name]`."""
    from stages.evaluate.stage import evaluate
    from stages.fuse.stage import fuse
    from stages.precompute.stage import precompute

    with TemporaryDirectory(prefix="demo-ta-") as cache:
        config = settings(recipe, weights, VIEWS[name], Path(cache))
        for report in (
            *precompute(manifest, config, only=["teacher"], progress=progress),
            fuse(manifest, config, progress=progress),
        ):
            if report.failures:
                raise UserError(f"{recipe.name}: {next(iter(report.failures.values()))}")
        scores, failures = evaluate(manifest, [config], progress=progress)
        if failures:
            raise UserError(f"{recipe.name}: {next(iter(failures.values()))}")
    return replace(scores[0], name=name)


def measure(recipe: Recipe, weights: Path, world: Path, progress: Progress) -> list[Scores]:
    """Scores on photos (`source-val`), whole panoramas and windows (`target-test`) of a rendered world."""
    photos = {split: n for split, n in MEASURING.items() if split.startswith("source")}
    panoramas = {split: n for split, n in MEASURING.items() if not split.startswith("source")}
    with TemporaryDirectory(prefix="demo-ta-") as folder:
        source = write_manifest(Path(folder) / "demo_source.yaml", world, photos)
        target = write_manifest(Path(folder) / "demo.yaml", world, panoramas)
        return [
            score_photos(recipe, weights, source, progress),
            *(score_panoramas(recipe, weights, target, name, progress) for name in VIEWS),
        ]


def report(measured: dict[str, Sequence[Scores]]) -> dict[str, Any]:
    """The figures for the line of JSON: one entry a TA and domain."""
    return {name: {scores.name: scores.figures() for scores in rows} for name, rows in measured.items()}


def main(
    which: Annotated[
        list[str] | None, typer.Option(help=f"{' or '.join(RECIPES)}; may be repeated. Default: all.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Other weights than the shipped ones, of one TA.")] = None,
    world: Annotated[Path, typer.Option(help="The rendered demo world; what is missing is rendered.")] = Path(
        "demo_world"
    ),
) -> None:
    """mIoU and IoU per class of the demo's TAs on photos, whole panoramas and windows of panoramas."""
    from pipeline.core.cli import echo, print_json, print_table
    from pipeline.data.labels import load_label_space
    from stages.evaluate.score import table

    space = load_label_space("cityscapes19")
    try:
        recipes = [chosen_recipe(name) for name in which or RECIPES]
        if weights is not None and len(recipes) != 1:
            raise UserError("--weights: belongs to one TA; expected one --which")
        measured: dict[str, Sequence[Scores]] = {}
        with console_progress() as progress:
            made = complete_world(world, MEASURING, progress)
            for recipe in recipes:
                measured[recipe.name] = measure(recipe, weights or recipe.weights, world, progress)
    except UserError as error:
        echo(str(error))
        raise typer.Exit(2) from None
    for name, rows in measured.items():
        images = ", ".join(f"{scores.name} {scores.images}" for scores in rows)
        print_table(f"TA {name}: IoU in percent ({images} images, {made.shift} shift)", *table(rows, space))
    print_json({"benchmark": "demo_teachers", "world": made.record(), "teachers": report(measured)})


if __name__ == "__main__":
    typer.run(main)
