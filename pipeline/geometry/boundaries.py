"""The boundary operator of this project (docs/method.md 2) [O], and binary dilation; both wrap in x."""

from __future__ import annotations

import math

import numpy as np


def label_boundary(labels: np.ndarray, *, cyclic: bool = True) -> np.ndarray:
    """Marks pixels of `labels` `(..., H, W)` that differ from their right or lower neighbour: bool, same shape.

    With `cyclic` the right neighbour of the last column is the first; otherwise (a window) it has none.
    The last row has no lower neighbour.
    """
    boundary = np.zeros(labels.shape, dtype=bool)
    boundary[..., :, :-1] |= labels[..., :, :-1] != labels[..., :, 1:]
    if cyclic:
        boundary[..., :, -1] |= labels[..., :, -1] != labels[..., :, 0]
    boundary[..., :-1, :] |= labels[..., :-1, :] != labels[..., 1:, :]
    return boundary


def dilate(mask: np.ndarray, radius: int, *, cyclic: bool = True) -> np.ndarray:
    """Dilates `mask` (bool `(..., H, W)`) with a disc of `radius` pixels (Euclidean): bool, same shape.

    With `cyclic` columns wrap around; rows never do. Radius 0 returns a copy of the mask.
    """
    height, width = mask.shape[-2:]
    # Each row of the disc is a horizontal dilation; `spread[dx]` is shared by all rows of half width dx.
    spread = {0: mask}
    current = mask.copy()
    for dx in range(1, min(radius, width - 1) + 1):
        if cyclic:
            current = current | np.roll(mask, dx, axis=-1) | np.roll(mask, -dx, axis=-1)
        else:
            current = current.copy()
            current[..., dx:] |= mask[..., :-dx]
            current[..., :-dx] |= mask[..., dx:]
        spread[dx] = current
    result = spread[max(spread)].copy()
    for dy in range(1, min(radius, height - 1) + 1):
        row = spread[min(max(spread), math.isqrt(radius * radius - dy * dy))]
        result[..., dy:, :] |= row[..., :-dy, :]
        result[..., :-dy, :] |= row[..., dy:, :]
    return result
