"""The one boundary operator of this project (docs/method.md 2, ours)."""

from __future__ import annotations

import numpy as np


def label_boundary(labels: np.ndarray, *, cyclic: bool = True) -> np.ndarray:
    """Where ``labels`` ``(..., H, W)`` differ from their right or lower neighbour: bool, same shape.

    With ``cyclic`` the right neighbour of the last column is the first; otherwise (a window) it has none.
    The last row has no lower neighbour.
    """
    boundary = np.zeros(labels.shape, dtype=bool)
    boundary[..., :, :-1] |= labels[..., :, :-1] != labels[..., :, 1:]
    if cyclic:
        boundary[..., :, -1] |= labels[..., :, -1] != labels[..., :, 0]
    boundary[..., :-1, :] |= labels[..., :-1, :] != labels[..., 1:, :]
    return boundary
