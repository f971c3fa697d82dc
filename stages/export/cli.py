"""Command line of `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pipeline.core.cli import Result, echo, echo_hint
from stages.options import option


def command(
    student: Annotated[Path, option("--student", "A student's checkpoint.", "FILE")],
    out: Annotated[
        Path | None, option("--out", "The file to write. Default: beside the checkpoint, with .onnx.", "FILE")
    ] = None,
    size: Annotated[str | None, option("--size", "Take images of this size only. Default: of any size.", "HxW")] = None,
) -> Result:
    """Writes a student as ONNX, checked against torch.

    A small JSON beside it holds classes, colours and normalisation.
    """
    from stages.export.stage import export_student, parse_size

    exported = export_student(student, out or student.with_suffix(".onnx"), parse_size(size) if size else None)
    echo(f"exported: {exported.path} ({exported.megabytes:.1f} MB) and {exported.path.with_suffix('.json').name}")
    echo(
        f"onnxruntime against torch: logits differ by at most {exported.max_difference:.1e}, "
        f"{exported.argmax_match:.3%} of the pixels have the same class"
    )
    echo_hint(f"goodsam predict IMAGES --student {exported.path}")
    figures = {"max_difference": exported.max_difference, "argmax_match": exported.argmax_match}
    megabytes = round(exported.megabytes, 3)
    return Result({"stage": "export", "onnx": str(exported.path), **figures, "megabytes": megabytes})
