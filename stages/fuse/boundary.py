"""Boundary enhancement (docs/method.md 3.2): `B_ref` from SAM's outlines and the TA's views, and snapping to it.

In: `B_SAM` and the predictions of overlapping views; out: `B_ref` (paper). The rule and the snapping are ours. Pure
functions on arrays; the panorama is cyclic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.geometry.boundaries import dilate, label_boundary
from pipeline.geometry.windows import Window, cyclic_columns


class ViewLabels(NamedTuple):
    """What one view says on the panorama's native grid: its rectangle there, `labels` uint8 `(h, w)` and where it
    sees anything, bool `(h, w)`."""

    window: Window
    labels: np.ndarray
    seen: np.ndarray


def refine(
    sam_boundary: np.ndarray, labels: np.ndarray, views: Sequence[ViewLabels], grid: tuple[int, int], radius: int
) -> np.ndarray:
    """`B_ref`: bool `(H, W)`.

    `sam_boundary` bool `(H, W)`: `B_SAM`; `labels` `(H, W)`: argmax of the stitched prediction; `views` lie
    on a native `grid` (h, w). A pixel of `B_SAM` survives if at least half of the views that see it change class
    within `radius` pixels; a class change of `labels` survives if all views that see it change class there and
    `B_SAM` has nothing within `radius` (ours).
    """
    agreeing = np.zeros(labels.shape, dtype=np.int16)
    seeing = np.zeros(labels.shape, dtype=np.int16)
    for view in views:
        for target, seen, changes in _on_pixels(view, labels.shape, grid, radius):
            seeing[target] += seen
            agreeing[target] += changes & seen
    kept = sam_boundary & (seeing > 0) & (2 * agreeing >= seeing)
    shared = label_boundary(labels) & (seeing > 0) & (agreeing == seeing)
    return kept | (shared & ~dilate(sam_boundary, radius))


def _on_pixels(
    view: ViewLabels, size: tuple[int, int], grid: tuple[int, int], radius: int
) -> list[tuple[tuple[slice, slice], np.ndarray, np.ndarray]]:
    """The view at pixels, in pieces that do not cross the seam: where, what is seen, what is near a class change."""
    step = size[1] // grid[1]
    rows = ((np.arange(size[0]) + 0.5) * grid[0] / size[0]).astype(np.int64) - view.window.y0
    first, end = np.searchsorted(rows, [0, view.window.height])
    rows = rows[first:end]
    labels = np.repeat(view.labels[rows], step, axis=1)
    seen = np.repeat(view.seen[rows], step, axis=1)
    ring = view.window.width == grid[1]
    # a step from what is seen to what is not is no class change
    changes = dilate(label_boundary(labels, cyclic=ring) & ~dilate(~seen, 1, cyclic=ring), radius, cyclic=ring)
    pieces = cyclic_columns(view.window.x0 * step, labels.shape[1], size[1])
    return [((slice(first, end), columns), seen[:, own], changes[:, own]) for columns, own in pieces]


#: The eight neighbours of a pixel, as (rows down, columns to the right).
_NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))


def inpaint_boundary_band(values: np.ndarray, cells: np.ndarray, boundary: np.ndarray, radius: int) -> np.ndarray:
    """`values` `(C, H, W)` with the band of `radius` pixels round `boundary` filled anew (ours).

    In rounds, from the band's rim inwards, a pixel takes the mean of those of its eight neighbours that have its own
    number in `cells` `(H, W)` and are outside the band or already filled: a local normalised average over nearby
    pixels of its own connected SAM cell outside the band. A pixel that `2 radius` rounds do not reach (a cell that is
    all band, such as a thin pole) keeps its value. A copy.
    """
    result = values.copy()
    flat = result.reshape(len(result), -1)
    height, width = cells.shape
    known = ~dilate(boundary, radius)
    for _ in range(2 * radius):
        rim = np.flatnonzero(~known & dilate(known, 2))
        total = np.zeros((len(result), len(rim)), dtype=result.dtype)
        count = np.zeros(len(rim), dtype=result.dtype)
        y, x = np.divmod(rim, width)
        for down, right in _NEIGHBOURS:
            inside = (y + down >= 0) & (y + down < height)
            other = np.clip(y + down, 0, height - 1) * width + (x + right) % width
            counts = inside & known.ravel()[other] & (cells.ravel()[other] == cells.ravel()[rim])
            total += np.where(counts, flat[:, other], 0)
            count += counts
        found = count > 0
        if not found.any():
            break
        flat[:, rim[found]] = total[:, found] / count[found]
        known.ravel()[rim[found]] = True
    return result
