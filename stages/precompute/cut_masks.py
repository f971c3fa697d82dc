"""Panorama masks that end where a view ends, and not where a thing ends [O]. Pure functions on arrays.

A view cuts the things at its left and right edge. Where the neighbouring view segments them differently, the cut masks
stay, and labels change along the view's edge. The neighbour sees the things whole, so its masks are used instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.geometry.masks import MaskSet, from_crops, mask_box
from pipeline.geometry.windows import Window

CUT = 0.1  #: Share of a mask's rows beside an edge that end there, from which on the mask counts as cut.


def remove_cuts(masks: MaskSet, windows: Sequence[Window]) -> MaskSet:
    """Removes what the edges of `windows` cut from the masks of a panorama.

    A cut mask that another window holds whole, beside its own edge, is removed. A larger one loses the pixels of the
    masks that cross the edge where it is cut. Windows as wide as the panorama cut nothing.
    """
    width = masks.shape[1]
    windows = [window for window in windows if window.width < width]
    removed = np.zeros(len(masks), dtype=bool)
    crossing: dict[int, set[int]] = {}
    for edge in sorted({x % width for window in windows for x in (window.x0, window.x0 + window.width)}):
        left, right = _rows_at(masks, (edge - 1) % width), _rows_at(masks, edge)
        before = [(edge - window.x0) % width for window in windows]  # columns of the window left of the edge
        inner = [(part, window.width - part) for part, window in zip(before, windows, strict=True)]
        seen = [parts for parts in inner if min(parts) > 0]  # of the windows that the edge lies in
        for side, (inside, outside) in enumerate(((left, right), (right, left))):
            ends = inside & ~outside
            cut = np.flatnonzero(ends.any(axis=1) & (ends.sum(axis=1) >= CUT * inside.sum(axis=1)))
            removed[cut] |= masks.table["box_w"][cut] <= max((parts[side] for parts in seen), default=0)
            crosses = (inside & outside).astype(np.int64)
            for k in cut.tolist():
                crossing.setdefault(k, set()).update(np.flatnonzero(crosses @ ends[k]).tolist())
    kept = []
    for k in np.flatnonzero(~removed).tolist():
        mask = masks.crop(k)
        if others := crossing.get(k):
            pixels = masks.mask(k) & ~np.any([masks.mask(other) for other in others], axis=0)
            x, y, w, h = mask_box(pixels, cyclic=True)
            mask = replace(mask, crop=Window(y, x, h, w).extract(pixels).copy(), x=x, y=y)
        if mask.area:
            kept.append(mask)
    return from_crops(kept, *masks.shape)


def _rows_at(masks: MaskSet, column: int) -> np.ndarray:
    """Returns the rows of every mask in one column: bool `(K, H)`."""
    rows = np.zeros((len(masks) + 1, masks.shape[0]), dtype=bool)
    for plane in masks.planes:
        rows[plane[:, column], np.arange(len(rows[0]))] = True
    return rows[1:]
