"""Circular padding of a view of the full panorama, so that the model sees objects on the seam whole [O].

    columns of the model's input    -p .. -1 | 0 ................ W-1 | W .. W+p-1
    columns of the panorama        W-p .. W-1 | 0 ............... W-1 | 0 .. p-1
                                     copy                                  copy

An object near the seam appears at both ends of the input; `crop_circular_padding` keeps one of the two masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from pipeline.geometry.masks import Mask, MaskSet, from_crops
from pipeline.geometry.views import View, ViewSettings
from pipeline.geometry.windows import Window, cyclic_columns


def extract_with_circular_padding(
    image: np.ndarray, views: Sequence[View], settings: ViewSettings
) -> tuple[list[np.ndarray], list[int]]:
    """Returns the model's input for each view, `(height, width + 2 padding, 3)`, and the padding of each in columns.

    The padding is 0 unless the view is the full panorama and the settings give one.
    """
    padding = max(family.padding for family in settings.families)
    paddings = [padding if isinstance(view, Window) and view.width == image.shape[1] else 0 for view in views]
    pixels = zip((view.extract_image(image) for view in views), paddings, strict=True)
    return [np.pad(view, ((0, 0), (p, p), (0, 0)), mode="wrap") for view, p in pixels], paddings


def crop_circular_padding(masks: MaskSet, padding: int) -> MaskSet:
    """Returns masks of a padded panorama, `width + 2 padding` columns wide, as masks of the panorama.

    Of the two masks of an object near the seam, the one whose box centre is outside the padding is kept. Its pixels in
    the padding are moved to the other end.
    """
    if not padding:
        return masks
    height, padded_width = masks.shape
    width = padded_width - 2 * padding
    centre = 2 * masks.table["box_x"] + masks.table["box_w"]

    def crops() -> Iterator[Mask]:
        for k in np.flatnonzero((2 * padding <= centre) & (centre < 2 * (padding + width))).tolist():
            mask = masks.crop(k)
            point = ((mask.point[0] - padding) % width, mask.point[1])
            yield _wrap(replace(mask, x=mask.x - padding, point=point), width)

    return from_crops(crops(), height, width)


def _wrap(mask: Mask, width: int) -> Mask:
    """Returns a mask whose box may begin at any column, and be wider than the panorama, as a mask of the panorama."""
    if mask.crop.shape[1] <= width:
        return replace(mask, x=mask.x % width)
    pixels = np.zeros((mask.crop.shape[0], width), dtype=bool)
    for first in range(0, mask.crop.shape[1], width):
        part = mask.crop[:, first : first + width]
        for columns, part_columns in cyclic_columns(mask.x + first, part.shape[1], width):
            pixels[:, columns] |= part[:, part_columns]
    return replace(mask, crop=pixels, x=0).trimmed(cyclic=True)
