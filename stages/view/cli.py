"""Command line of `view`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.cli import Result, echo
from stages.options import FusionOption, RunOptions, option


def command(
    image: Annotated[str, typer.Argument(help="Id of a panorama: its path below the root, without suffix.")],
    run: RunOptions,
    fusion: FusionOption = None,
    student: Annotated[Path | None, option("--student", "A student's checkpoint to show as well.", "FILE")] = None,
    out: Annotated[Path, option("--out", "The picture to write.", "FILE")] = Path("outputs/view.png"),
) -> Result:
    """Draws one panorama with all its cached data.

    Image, SAM masks, boundary, TA, ensemble, weight and student, below each other.
    """
    from pipeline.data.visualization import save_picture
    from stages.view.picture import draw_panorama

    data, settings = run.read(fusion)
    save_picture(draw_panorama(data, settings, image, student), out)
    echo(str(out))
    return Result({"stage": "view", "picture": str(out)})
