"""Command line of `predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.cli import Result, echo
from stages.options import option


def command(
    images: Annotated[list[str], typer.Argument(metavar="IMAGES", help="Panoramas: files, folders or globs.")],
    student: Annotated[Path, option("--student", "A student: a checkpoint, or an exported .onnx.", "FILE")],
    out: Annotated[Path, option("--out", "Folder of the results.", "FOLDER")] = Path("outputs/predict"),
    crop_rows: Annotated[str | None, option("--crop-rows", "Or 'none'. Default: as in training.", "FIRST:LAST")] = None,
    size: Annotated[str | None, option("--size", "Or 'none'. Default: as in training.", "HxW")] = None,
    probabilities: Annotated[
        bool, option("--probabilities", "Also write .npy files: float16 (classes, height, width).")
    ] = False,
    device: Annotated[str, option("--device", "auto, cpu or cuda[:index].", "NAME")] = "auto",
) -> Result:
    """Writes label PNGs and colour overlays of panoramas."""
    from pipeline.core.progress import console_progress
    from stages.predict.stage import find_images, predict

    paths = find_images(images, out)
    with console_progress() as progress:
        done, failures = predict(
            paths,
            student,
            out,
            crop_rows=crop_rows,
            size=size,
            device=device,
            probabilities=probabilities,
            progress=progress,
        )
    echo(f"{len(done)} panoramas: labels in {out / 'labels'}, overlays in {out / 'overlays'}")
    figures = {"stage": "predict", "images": len(done), "failed": len(failures), "out": str(out)}
    return Result(figures, failed=bool(failures))
