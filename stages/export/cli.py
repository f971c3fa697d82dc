"""Command line of `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.cli import echo, print_json


def command(
    student: Annotated[Path, typer.Option("--student", help="A student's checkpoint.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The file to write; default: beside the checkpoint, with .onnx.")
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", help="HEIGHTxWIDTH: take images of this size only. Default: of any size.")
    ] = None,
) -> None:
    """A student as ONNX and a small JSON, checked against torch.

    The JSON holds classes, colours and normalisation.
    """
    from stages.export.stage import export_student, parse_size

    exported = export_student(student, out or student.with_suffix(".onnx"), parse_size(size) if size else None)
    echo(f"exported: {exported.path} ({exported.megabytes:.1f} MB) and {exported.path.with_suffix('.json').name}")
    echo(
        f"onnxruntime against torch: logits differ by at most {exported.max_difference:.1e}, "
        f"{exported.argmax_match:.3%} of the pixels have the same class"
    )
    echo(f"next: python -m pipeline predict IMAGES --student {exported.path}")
    print_json(
        {
            "stage": "export",
            "onnx": str(exported.path),
            "max_difference": exported.max_difference,
            "argmax_match": exported.argmax_match,
            "megabytes": round(exported.megabytes, 3),
        }
    )
