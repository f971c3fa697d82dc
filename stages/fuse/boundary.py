"""Boundary enhancement (docs/method.md 3.2): the refined boundary `B_ref`, and inpainting of the predictions near it.

`B_ref` is computed from `B_SAM` and the predictions of overlapping views [P]; the rule and the inpainting are ours [O].
Pure functions on arrays; the panorama is cyclic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.geometry.boundaries import dilate, label_boundary
from pipeline.geometry.windows import Window, cyclic_columns


class ViewLabels(NamedTuple):
    """A view's labels, uint8 `(h, w)` of its window on the native grid, and the cells that it covers, bool `(h, w)`."""

    window: Window
    labels: np.ndarray
    covered: np.ndarray


def refine(
    sam_boundary: np.ndarray, labels: np.ndarray, views: Sequence[ViewLabels], grid: tuple[int, int], radius: int
) -> np.ndarray:
    """Computes `B_ref`, bool `(H, W)`, from `B_SAM`, bool `(H, W)`, and the TA's predictions [O].

    A pixel of `B_SAM` is kept if at least half of the views that cover it change class within `radius` pixels. A class
    change of `labels` is added if all views that cover it change class there and `B_SAM` has no pixel within `radius`.

    `labels` `(H, W)` are the argmax of the stitched prediction, `views` that of each view on the native `grid` (h, w).
    """
    height, width = labels.shape
    step = width // grid[1]
    grid_rows = ((np.arange(height) + 0.5) * grid[0] / height).astype(np.int64)
    changing, covering = np.zeros((2, height, width), dtype=np.int16)
    for window, grid_labels, grid_covered in views:
        first, end = np.searchsorted(grid_rows, [window.y0, window.y0 + window.height])
        rows = grid_rows[first:end] - window.y0
        view_labels, covered = (np.repeat(values[rows], step, axis=1) for values in (grid_labels, grid_covered))
        cyclic = window.width == grid[1]
        # The edge of the covered pixels is no class change.
        edges = label_boundary(view_labels, cyclic=cyclic) & ~dilate(~covered, 1, cyclic=cyclic)
        changes = dilate(edges, radius, cyclic=cyclic) & covered
        for columns, view_columns in cyclic_columns(window.x0 * step, covered.shape[1], width):
            covering[first:end, columns] += covered[:, view_columns]
            changing[first:end, columns] += changes[:, view_columns]
    confirmed = sam_boundary & (covering > 0) & (2 * changing >= covering)
    unanimous = label_boundary(labels) & (covering > 0) & (changing == covering)
    return confirmed | (unanimous & ~dilate(sam_boundary, radius))


#: The eight neighbours of a pixel, as (rows down, columns to the right).
_NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


def inpaint_boundary_band(values: np.ndarray, region_ids: np.ndarray, boundary: np.ndarray, radius: int) -> np.ndarray:
    """Inpaints a copy of `values` `(C, H, W)` in the band of `radius` pixels around `boundary` (bool `(H, W)`) [O].

    The band is filled from its edge inwards. In each round a pixel at the edge takes the mean of those of its eight
    neighbours that are in its region (`region_ids` `(H, W)`), and outside the band or filled already. A pixel that
    `2 radius` rounds do not reach (in a region that is all band, such as a thin pole) keeps its value.
    """
    result = values.copy()
    flat = result.reshape(len(result), -1)
    height, width = region_ids.shape
    filled = ~dilate(boundary, radius)
    for _ in range(2 * radius):
        edge = np.flatnonzero(~filled & dilate(filled, 2))
        total = np.zeros((len(result), len(edge)), dtype=result.dtype)
        count = np.zeros(len(edge), dtype=result.dtype)
        y, x = np.divmod(edge, width)
        for down, right in _NEIGHBOURS:
            is_inside = (y + down >= 0) & (y + down < height)
            neighbour = np.clip(y + down, 0, height - 1) * width + (x + right) % width
            same_region = region_ids.ravel()[neighbour] == region_ids.ravel()[edge]
            is_source = is_inside & filled.ravel()[neighbour] & same_region
            total += np.where(is_source, flat[:, neighbour], 0)
            count += is_source
        has_source = count > 0
        if not has_source.any():
            break
        flat[:, edge[has_source]] = total[:, has_source] / count[has_source]
        filled.ravel()[edge[has_source]] = True
    return result
