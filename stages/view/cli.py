"""Command line of `view`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.cli import echo
from stages.options import CacheOption, ConfigOption, FusionOption, ManifestOption, SetOption, read_run


def command(
    image: Annotated[str, typer.Argument(help="Id of a panorama: its path below the root, without suffix.")],
    manifest: ManifestOption = None,
    config: ConfigOption = None,
    fusion: FusionOption = None,
    set_: SetOption = None,
    cache: CacheOption = None,
    student: Annotated[Path | None, typer.Option("--student", help="A student's checkpoint to show as well.")] = None,
    out: Annotated[Path, typer.Option("--out", help="The picture to write.")] = Path("outputs/view.png"),
) -> None:
    """One panorama as a picture, with all that is known of it.

    Image, SAM masks, boundary, TA, ensemble, weight and student, below each other.
    """
    from pipeline.data.visualization import save_picture
    from stages.view.picture import draw

    data, settings = read_run(manifest, config, set_, cache, fusion)
    save_picture(draw(data, settings, image, student), out)
    echo(str(out))
