"""Bilinear up-sampling of native-stride maps to pixels (half-pixel centres, as ``align_corners=False``).

Weights are computed once for each phase of the stride, so a map rolled by whole native pixels gives the rolled result
bit for bit.
"""

from __future__ import annotations

import numpy as np


def upsample(values: np.ndarray, stride: int, height: int, *, cyclic: bool) -> np.ndarray:
    """``values`` float32 ``(..., h, w)`` as ``(..., height, w * stride)``.

    Rows are scaled by ``height / h`` and clamped at the top and bottom; columns by ``stride``, wrapped if ``cyclic``
    and clamped otherwise.
    """
    rows = _interpolate_rows(values.astype(np.float32, copy=False), height)
    width = values.shape[-1]
    result = np.empty((*rows.shape[:-1], width, stride), dtype=np.float32)
    if cyclic:
        left, right = np.roll(rows, 1, axis=-1), np.roll(rows, -1, axis=-1)
    else:
        left = np.concatenate([rows[..., :1], rows[..., :-1]], axis=-1)
        right = np.concatenate([rows[..., 1:], rows[..., -1:]], axis=-1)
    for phase in range(stride):
        offset = (phase + 0.5) / stride - 0.5
        other, weight = (left, -offset) if offset < 0 else (right, offset)
        result[..., phase] = rows + np.float32(weight) * (other - rows)
    return result.reshape(*rows.shape[:-1], width * stride)


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
