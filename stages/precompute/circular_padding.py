"""A view of the whole ring with circular padding: the model also sees some columns from the other end (ours)."""

from __future__ import annotations

import numpy as np

from pipeline.geometry.masks import MaskSet, MaskSetBuilder, mask_box
from pipeline.geometry.views import View, ViewSettings
from pipeline.geometry.windows import Window, cyclic_columns


def circular_padding(settings: ViewSettings, view: View, panorama_width: int) -> int:
    """Columns that the model sees on either side of `view` besides its own: 0 unless it is a padded whole ring."""
    padding = max(family.padding for family in settings.families)
    return padding if isinstance(view, Window) and view.width == panorama_width else 0


def extract_with_circular_padding(view: View, image: np.ndarray, padding: int) -> np.ndarray:
    """The model's input for a view: `(height, width + 2 padding, 3)`."""
    own = view.extract_image(image)
    return np.pad(own, ((0, 0), (padding, padding), (0, 0)), mode="wrap") if padding else own


def crop_circular_padding(masks: MaskSet, padding: int) -> MaskSet:
    """Masks of a padded ring, `width + 2 padding` columns wide, as masks of the ring.

    An object near the seam is seen twice, at both ends: the mask counts whose box has its middle between the paddings.
    What of it lies in the padding goes to the other end.
    """
    height, padded = masks.shape
    width = padded - 2 * padding
    builder = MaskSetBuilder(height, width)
    for k, row in enumerate(masks.table):
        x, y, w, h = (int(row[f"box_{side}"]) for side in "xywh")
        middle = 2 * x + w
        if not 2 * padding <= middle < 2 * (padding + width):
            continue
        inside = masks.planes[row["plane"], y : y + h, x : x + w] == k + 1
        x, inside = _on_ring(inside, x - padding, width)
        builder.add(
            inside,
            x,
            y,
            predicted_iou=float(row["predicted_iou"]),
            stability_score=float(row["stability_score"]),
            point=((row["point_x"] - padding) % width, row["point_y"]),
        )
    return builder.build()


def _on_ring(inside: np.ndarray, x: int, width: int) -> tuple[int, np.ndarray]:
    """A box that begins at column `x` (any integer) on a ring: its column and its pixels there."""
    if inside.shape[1] <= width:
        return x % width, inside
    ring = np.zeros((inside.shape[0], width), dtype=bool)
    for first in range(0, inside.shape[1], width):
        part = inside[:, first : first + width]
        for target, own in cyclic_columns(x + first, part.shape[1], width):
            ring[:, target] |= part[:, own]
    column, _, columns, _ = mask_box(ring, cyclic=True)
    return column, np.take(ring, np.arange(column, column + columns), axis=1, mode="wrap")
