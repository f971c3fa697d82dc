"""Pictures for people: colour overlays, mask outlines, and titled panels on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.core.atomic_files import whole_file
from pipeline.core.errors import UserError
from pipeline.data.labels import LabelSpace
from pipeline.geometry.masks import MaskSet

TITLE_HEIGHT = 22


def overlay(image: np.ndarray, labels: np.ndarray, space: LabelSpace, strength: float = 0.6) -> np.ndarray:
    """`labels` `(H, W)` in their colours over `image` RGB `(H, W, 3)`; ignored pixels stay as they are."""
    colours = space.colours(labels).astype(np.float32)
    mixed = image * (1 - strength) + colours * strength
    inside = (labels < space.num_classes)[..., None]
    return np.where(inside, mixed, image).astype(np.uint8)


def mask_picture(image: np.ndarray, masks: MaskSet) -> np.ndarray:
    """Every mask in a colour of its own over `image`, small ones on top, with white outlines."""
    from pipeline.geometry.boundaries import label_boundary

    colours = np.random.default_rng(0).integers(40, 256, (len(masks) + 1, 3), dtype=np.uint8)
    picture = image.astype(np.float32)
    for k in np.argsort(-masks.table["area"], kind="stable"):
        inside = masks.mask(int(k))
        picture[inside] = 0.4 * image[inside] + 0.6 * colours[k]
    if len(masks.planes):
        picture[label_boundary(masks.planes).any(axis=0)] = 255
    return picture.astype(np.uint8)


def grey(values: np.ndarray) -> np.ndarray:
    """`values` uint8 `(H, W)` as an RGB picture."""
    return np.repeat(values[..., None], 3, axis=-1)


def image_grid(
    panels: Sequence[tuple[str, np.ndarray]], space: LabelSpace | None = None, *, columns: int = 1
) -> Image.Image:
    """The titled `panels` (RGB uint8 of one size) in rows of `columns`, with the classes' colours at the foot."""
    panel_height = max(panel.shape[0] for _, panel in panels) + TITLE_HEIGHT
    panel_width = max(panel.shape[1] for _, panel in panels)
    width, rows = panel_width * columns, -(-len(panels) // columns)
    legend = _legend(space, width) if space is not None else None
    picture = Image.new("RGB", (width, rows * panel_height + (legend.height if legend else 0)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    for k, (title, panel) in enumerate(panels):
        x, y = k % columns * panel_width, k // columns * panel_height
        draw.text((x + 6, y + 2), title, fill="black", font=font)
        picture.paste(Image.fromarray(panel), (x, y + TITLE_HEIGHT))
    if legend is not None:
        picture.paste(legend, (0, rows * panel_height))
    return picture


def _legend(space: LabelSpace, width: int) -> Image.Image:
    font = ImageFont.load_default(14)
    places: list[tuple[int, int]] = []
    x, y = 6, 4
    for name in space.classes:
        length = 24 + int(font.getlength(name)) + 16
        if x + length > width:
            x, y = 6, y + 22
        places.append((x, y))
        x += length
    picture = Image.new("RGB", (width, y + 24), "white")
    draw = ImageDraw.Draw(picture)
    for (x, y), name, colour in zip(places, space.classes, space.palette, strict=True):
        draw.rectangle((x, y, x + 16, y + 16), fill=tuple(colour))
        draw.text((x + 22, y), name, fill="black", font=font)
    return picture


def save_picture(picture: Image.Image, path: Path, **options: Any) -> None:
    """Writes a picture whole or not at all, in the format that the name's ending says; `options` are Pillow's.

    Raises `UserError` for a name with another ending.
    """
    format_ = Image.registered_extensions().get(path.suffix.lower())
    if format_ not in Image.SAVE:
        raise UserError(f"{path}: found the ending {path.suffix!r}, expected that of a picture, e.g. .png or .jpg")
    with whole_file(path) as temporary:
        picture.save(temporary, format=format_, **options)
