"""A contact sheet of the demo world, images beside their labels: `python -m demo.contact_sheet --out FILE`."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from demo.domain import SHIFTS
from demo.render import Frame
from demo.splits import SIZES, Split, WorldSettings, render_sample
from pipeline.data.labels import load_label_space

RGB = NDArray[np.uint8]
_GAP = 4


def colour_labels(frame: Frame) -> RGB:
    """Returns the semantic labels in Cityscapes colours with dark instance outlines, (H, W, 3) uint8."""
    ids = frame.labels.instance
    colours = load_label_space("cityscapes19").colours(frame.labels.semantic)
    edge = np.zeros(ids.shape, bool)
    edge[:, :-1] |= ids[:, 1:] != ids[:, :-1]
    edge[:-1] |= ids[1:] != ids[:-1]
    return np.where(edge[..., None], colours // 3, colours)


def arrange_grid(images: list[RGB], columns: int) -> RGB:
    """Arranges images of one size in rows of `columns` on white."""
    h, w = images[0].shape[:2]
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (h + _GAP) - _GAP, columns * (w + _GAP) - _GAP, 3), 255, np.uint8)
    for k, image in enumerate(images):
        y, x = k // columns * (h + _GAP), k % columns * (w + _GAP)
        sheet[y : y + h, x : x + w] = image
    return sheet


def render_sheet(settings: WorldSettings, split: Split, count: int, columns: int) -> RGB:
    """Renders the first `count` samples of a split, each followed by its labels."""
    frames = [render_sample(settings, split, index) for index in range(count)]
    return arrange_grid([image for frame in frames for image in (frame.image, colour_labels(frame))], columns)


def main(
    out: Annotated[Path, typer.Option(help="Image file to write.")],
    size: Annotated[str, typer.Option(help="half or full.")] = "half",
    shift: Annotated[str, typer.Option(help="none, mild or strong.")] = "mild",
    seed: Annotated[int, typer.Option(min=0, help="Seed of all scenes.")] = 0,
    panoramas: Annotated[int, typer.Option(min=1, help="Panoramas of target-test.")] = 4,
    pinholes: Annotated[int, typer.Option(min=2, help="Photos of source-val.")] = 4,
) -> None:
    """Render some samples of both domains onto one sheet."""
    if size not in SIZES or shift not in SHIFTS:
        raise typer.BadParameter(f"size is one of {', '.join(SIZES)}; shift is one of {', '.join(SHIFTS)}")
    settings = WorldSettings(size, shift, seed)
    parts = [
        render_sheet(settings, "source-val", pinholes, columns=4),
        render_sheet(settings, "target-test", panoramas, columns=1),
    ]
    width = max(part.shape[1] for part in parts)
    padded = [np.pad(p, ((0, _GAP), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in parts]
    Image.fromarray(np.concatenate(padded)).save(out)


if __name__ == "__main__":
    typer.run(main)
