"""A contact sheet of the demo world: `python -m demo.sheet --out FILE`; pictures beside their labels."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from demo.classes import PALETTE
from demo.domain import SHIFTS
from demo.render import Frame
from demo.splits import SIZES, Split, WorldSettings, render_sample

RGB = NDArray[np.uint8]
_GAP = 4


def label_colours(frame: Frame) -> RGB:
    """The semantic labels in Cityscapes colours with dark instance outlines, (H, W, 3) uint8."""
    ids = frame.labels.instance
    colours = PALETTE[frame.labels.semantic]
    edge = np.zeros(ids.shape, bool)
    edge[:, :-1] |= ids[:, 1:] != ids[:, :-1]
    edge[:-1] |= ids[1:] != ids[:-1]
    return np.where(edge[..., None], colours // 3, colours)


def grid(pictures: list[RGB], columns: int) -> RGB:
    """Pictures of one size in rows of `columns`, on white."""
    h, w = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (h + _GAP) - _GAP, columns * (w + _GAP) - _GAP, 3), 255, np.uint8)
    for k, picture in enumerate(pictures):
        y, x = k // columns * (h + _GAP), k % columns * (w + _GAP)
        sheet[y : y + h, x : x + w] = picture
    return sheet


def contact_sheet(settings: WorldSettings, split: Split, count: int, columns: int) -> RGB:
    """The first `count` samples of a split, each followed by its labels."""
    pictures = []
    for index in range(count):
        frame = render_sample(settings, split, index)
        pictures += [frame.image, label_colours(frame)]
    return grid(pictures, columns)


def main(
    out: Annotated[Path, typer.Option(help="Picture file to write.")],
    size: Annotated[str, typer.Option(help="half or full.")] = "half",
    shift: Annotated[str, typer.Option(help="none, mild or strong.")] = "mild",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    panoramas: Annotated[int, typer.Option(min=1, help="Panoramas of target-test.")] = 4,
    pinholes: Annotated[int, typer.Option(min=2, help="Pinhole images of source-val.")] = 4,
) -> None:
    """Render a few samples of both domains onto one sheet."""
    if size not in SIZES or shift not in SHIFTS:
        raise typer.BadParameter(f"size is one of {', '.join(SIZES)}; shift is one of {', '.join(SHIFTS)}")
    settings = WorldSettings(size, shift, seed)
    parts = [
        contact_sheet(settings, "source-val", pinholes, columns=4),
        contact_sheet(settings, "target-test", panoramas, columns=1),
    ]
    width = max(part.shape[1] for part in parts)
    padded = [np.pad(p, ((0, _GAP), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in parts]
    Image.fromarray(np.concatenate(padded)).save(out)


if __name__ == "__main__":
    typer.run(main)
