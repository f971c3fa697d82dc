"""Bilinear up-sampling of native-stride maps to pixels (half-pixel centres, as `align_corners=False`).

Weights are computed once for each phase of the stride, so a map rolled by whole native pixels gives the rolled result
bit for bit.
"""

from __future__ import annotations

import numpy as np


def upsample(values: np.ndarray, stride: int, height: int, *, cyclic: bool) -> np.ndarray:
    """Up-samples `values` float32 `(..., h, w)` to `(..., height, w * stride)`.

    Rows are scaled by `height / h` and clamped at the top and bottom; columns by `stride`, wrapped if `cyclic`
    and clamped otherwise.
    """
    planes = values.reshape(-1, *values.shape[-2:]).astype(np.float32, copy=False)
    result = np.empty((len(planes), height, values.shape[-1], stride), dtype=np.float32)
    for plane, full in zip(planes, result, strict=True):  # plane by plane: one fits into the CPU cache
        rows = _interpolate_rows(plane, height)
        if cyclic:
            left, right = np.roll(rows, 1, axis=-1), np.roll(rows, -1, axis=-1)
        else:
            left = np.concatenate([rows[:, :1], rows[:, :-1]], axis=-1)
            right = np.concatenate([rows[:, 1:], rows[:, -1:]], axis=-1)
        left -= rows
        right -= rows
        for phase in range(stride):
            offset = (phase + 0.5) / stride - 0.5
            step, weight = (left, -offset) if offset < 0 else (right, offset)
            np.add(rows, np.float32(weight) * step, out=full[..., phase])
    return result.reshape(*values.shape[:-2], height, values.shape[-1] * stride)


def _interpolate_rows(values: np.ndarray, height: int) -> np.ndarray:
    rows = values.shape[-2]
    if rows == height:
        return values
    position = np.clip((np.arange(height) + 0.5) * rows / height - 0.5, 0, rows - 1)
    above = np.floor(position).astype(np.int64)
    below = np.minimum(above + 1, rows - 1)
    weight = (position - above).astype(np.float32)[:, None]
    upper = values[..., above, :]
    return upper + weight * (values[..., below, :] - upper)


def most_likely(values: np.ndarray) -> np.ndarray:
    """Returns `values.argmax(axis=0)` of `(C, H, W)`, C up to 256, as uint8 `(H, W)`, faster than numpy does."""
    highest, label = values[0].copy(), np.zeros(values.shape[1:], dtype=np.uint8)
    for c in range(1, len(values)):
        better = values[c] > highest
        np.copyto(label, np.uint8(c), where=better)
        np.maximum(highest, values[c], out=highest)
    return label
