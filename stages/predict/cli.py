"""Command line of `predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.cli import SOME_IMAGES_FAILED, echo, print_json


def command(
    images: Annotated[list[str], typer.Argument(help="Panoramas: files, folders or globs.")],
    student: Annotated[Path, typer.Option("--student", help="A student: a checkpoint, or an exported .onnx.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the results.")] = Path("outputs/predict"),
    crop_rows: Annotated[
        str | None, typer.Option("--crop-rows", help="first:last, or 'none'; default: as in training.")
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", help="HEIGHTxWIDTH, or 'none'; default: as in training.")
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write .npy files: float16 (classes, height, width).")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda[:index].")] = "auto",
) -> None:
    """Panoramas in, label PNGs and colour overlays out."""
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
    print_json({"stage": "predict", "images": len(done), "failed": len(failures), "out": str(out)})
    if failures:
        raise typer.Exit(SOME_IMAGES_FAILED)
