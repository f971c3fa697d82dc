"""Pictures for people: label and mask overlays, legends, palette images, and grids of titled panels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.core.atomic_files import atomic_write
from pipeline.core.errors import UserError
from pipeline.data.labels import LabelSpace
from pipeline.geometry.boundaries import label_boundary
from pipeline.geometry.masks import MaskSet

MAX_GRID_WIDTH = 3000  # pixels of an image grid; wider panels are scaled down

#: A title and an RGB uint8 image `(H, W, 3)`.
Panel = tuple[str, np.ndarray]


def overlay(image: np.ndarray, labels: np.ndarray, space: LabelSpace, opacity: float = 0.6) -> np.ndarray:
    """Blends the colours of `labels`, uint8 `(H, W)`, with `image`, RGB uint8 `(H, W, 3)`; ignored pixels stay."""
    blended = image * (1 - opacity) + space.colours(labels).astype(np.float32) * opacity
    return np.where((labels < space.num_classes)[..., None], blended, image).astype(np.uint8)


def overlay_masks(image: np.ndarray, masks: MaskSet) -> np.ndarray:
    """Blends a random colour for each mask with `image`, small masks on top, and adds white outlines."""
    colours = np.random.default_rng(0).integers(40, 256, (len(masks) + 1, 3), dtype=np.uint8)
    picture = image.astype(np.float32)
    for k in np.argsort(-masks.table["area"], kind="stable"):
        inside = masks.mask(int(k))
        picture[inside] = 0.4 * image[inside] + 0.6 * colours[k]
    if len(masks.planes):
        picture[label_boundary(masks.planes).any(axis=0)] = 255
    return picture.astype(np.uint8)


def grey_to_rgb(values: np.ndarray) -> np.ndarray:
    """Returns uint8 `(H, W)` as RGB uint8 `(H, W, 3)`."""
    return np.repeat(values[..., None], 3, axis=-1)


def palette_image(labels: np.ndarray, space: LabelSpace) -> Image.Image:
    """Returns `labels`, uint8 `(H, W)`, as a palette image: viewers show colours, the pixel values are class ids.

    Pillow and torchvision read the class ids. OpenCV and scikit-image read the colours.
    """
    image = Image.fromarray(labels)
    image.putpalette(space.colour_table.tobytes())  # all 256 colours: with fewer, the file would have fewer bits
    return image


def add_legend(picture: np.ndarray, space: LabelSpace) -> Image.Image:
    """Returns an RGB picture `(H, W, 3)` with the names and colours of the classes below it."""
    return _append_legend(Image.fromarray(picture), space, _font_size(picture.shape[1]))


def image_grid(rows: Sequence[Sequence[Panel]], space: LabelSpace | None = None) -> Image.Image:
    """Draws rows of titled panels, and a legend of the classes of `space` below them.

    Short rows end in white. Titles are shortened to the width of their panels.
    """
    columns = max(map(len, rows))
    shapes = np.array([panel.shape[:2] for row in rows for _, panel in row])
    scale = min(1.0, MAX_GRID_WIDTH // columns / shapes[:, 1].max())
    height, width = np.maximum(1, np.rint(shapes.max(axis=0) * scale)).astype(int).tolist()
    size = _font_size(width)
    title_height = size * 3 // 2
    picture = Image.new("RGB", (width * columns, len(rows) * (height + title_height)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    for i, row in enumerate(rows):
        for j, (title, panel) in enumerate(row):
            x, y = j * width, i * (height + title_height)
            while font.getlength(title) > width - size and len(title) > 3:
                title = title.removesuffix("...")[:-1] + "..."
            draw.text((x + size // 3, y + size // 6), title, fill="black", font=font)
            shape = np.maximum(1, np.rint(np.array(panel.shape[1::-1]) * scale)).astype(int).tolist()
            scaled = Image.fromarray(panel) if scale == 1 else Image.fromarray(panel).resize(shape)
            picture.paste(scaled, (x, y + title_height))
    return picture if space is None else _append_legend(picture, space, size)


def _font_size(width: int) -> int:
    return min(28, max(12, width // 45))


def _append_legend(picture: Image.Image, space: LabelSpace, size: int) -> Image.Image:
    """Adds rows of colour squares and class names, at most as wide as the picture."""
    font, gap = ImageFont.load_default(size), size // 2
    places: list[tuple[int, int]] = []
    x, y = gap, picture.height + gap
    for name in space.classes:
        length = size + gap + int(font.getlength(name)) + 2 * gap
        if x + length > picture.width and x > gap:
            x, y = gap, y + size + gap
        places.append((x, y))
        x += length
    result = Image.new("RGB", (picture.width, y + size + gap), "white")
    result.paste(picture)
    draw = ImageDraw.Draw(result)
    for (x, y), name, colour in zip(places, space.classes, space.palette, strict=True):
        draw.rectangle((x, y, x + size, y + size), fill=tuple(colour))
        draw.text((x + size + gap, y + size // 2), name, fill="black", font=font, anchor="lm")
    return result


def save_picture(picture: Image.Image, path: Path, **options: Any) -> None:
    """Writes a picture atomically, in the format of the suffix of `path`, with options of Pillow, e.g. `quality`.

    Raises `UserError` if Pillow writes no format with this suffix.
    """
    format_ = Image.registered_extensions().get(path.suffix.lower())
    if format_ not in Image.SAVE:
        raise UserError(f"{path}: found the suffix {path.suffix!r}, expected that of a picture, e.g. .png or .jpg")
    with atomic_write(path) as temporary:
        picture.save(temporary, format=format_, **options)
