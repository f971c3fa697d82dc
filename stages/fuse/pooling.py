"""Prediction-level consistency (docs/method.md 3.1): the views' predictions pooled into one, and how far they disagree.

Pure functions on arrays, at the TA's native stride. Sums run in an order that depends on the pixels' place in the views
only, so that a rolled panorama gives the rolled result bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.labels import LabelSpace
from pipeline.geometry.windows import Placement, Window, coverage_tiles
from stages.fuse.settings import PoolingSettings

#: Probabilities below this are treated as this in logarithms.
TINY = 1e-12


@dataclass(frozen=True)
class Pooled:
    """The stitched prediction `S_TA^w`.

    `probabilities` float32 `(C, h, w)` on the panorama at native stride, sum 1 over classes; `l_cc` is the mean
    symmetric KL divergence (nats) of the views on the pixels that at least two cover, 0 if there are none;
    `residual` the mean over all pixels of sum_i a_i KL(p_i || pooled).
    """

    probabilities: np.ndarray
    l_cc: float
    residual: float


def softmax(logits: np.ndarray, axis: int) -> np.ndarray:
    """Softmax in float32 along `axis`."""
    shifted = logits.astype(np.float32) - logits.max(axis=axis, keepdims=True).astype(np.float32)
    np.exp(shifted, out=shifted)
    return shifted / shifted.sum(axis=axis, keepdims=True)


def class_probabilities(logits: np.ndarray, source: LabelSpace, target: LabelSpace) -> np.ndarray:
    """One view's logits `(C_source, h, w)` as float32 probabilities `(C, h, w)` in the classes of `target`."""
    probabilities = softmax(logits, axis=0)
    if source.classes == target.classes:
        return probabilities
    return target.map_probabilities(probabilities, source)


def pool(
    probabilities: Sequence[np.ndarray],
    placements: Sequence[Placement],
    size: tuple[int, int],
    settings: PoolingSettings,
) -> Pooled:
    """The views' `probabilities`, each `(C, h, w)` of its placement's window, pooled on a grid of `size` (h, w).

    Weights are position x (1 - normalised entropy)^confidence, at least `floor` where the view sees the pixel, and
    normalised over the views of a pixel; "arithmetic" pools probabilities (the minimiser of sum a_i KL(p_i || q)),
    "log" their logarithms (that of sum a_i KL(q || p_i)) (docs/method.md 3.1, ours). Raises `ValueError` if no
    view sees a pixel.
    """
    height, width = size
    pooled = np.empty((len(probabilities[0]), height, width), dtype=np.float32)
    kl_sum, kl_pixels, residual_sum = 0.0, 0, 0.0
    for cell in coverage_tiles([placement.window for placement in placements], height, width):
        inside = [(view, *cell.of(row, column)) for view, row, column in cell.members]
        position = [placements[view].weight[rows, columns] for view, rows, columns in inside]
        if not inside or not np.any([weight > 0 for weight in position], axis=0).all():
            raise ValueError(f"no view covers all of rows {cell.y0}..{cell.y1 - 1}, columns {cell.x0}..{cell.x1 - 1}")
        p = np.stack([probabilities[view][:, rows, columns] for view, rows, columns in inside])
        seen = np.stack(position) > 0
        weight = _weights(p, np.stack(position), settings)
        q = _pooled(p, weight, settings)
        pooled[:, cell.rows, cell.columns] = q
        log_p = np.log(np.maximum(p, TINY))
        residual_sum += float((weight * (p * (log_p - np.log(np.maximum(q, TINY)))).sum(axis=1)).sum(dtype=np.float64))
        for i in range(len(p)):
            for j in range(i + 1, len(p)):
                both = seen[i] & seen[j]
                divergence = ((p[i] - p[j]) * (log_p[i] - log_p[j])).sum(axis=0)
                kl_sum += float(divergence[both].sum(dtype=np.float64))
                kl_pixels += int(np.count_nonzero(both))
    return Pooled(pooled, kl_sum / max(1, kl_pixels), residual_sum / (height * width))


def _weights(p: np.ndarray, position: np.ndarray, settings: PoolingSettings) -> np.ndarray:
    weight = position
    if settings.confidence:
        entropy = -(p * np.log(np.maximum(p, TINY))).sum(axis=1) / np.log(max(2, p.shape[1]))
        weight = weight * np.clip(1 - entropy, 0, 1) ** np.float32(settings.confidence)
    weight = np.where(position > 0, np.maximum(weight, np.float32(settings.floor)), np.float32(0))
    return weight / _ordered_sum(weight)


def _pooled(p: np.ndarray, weight: np.ndarray, settings: PoolingSettings) -> np.ndarray:
    if settings.mode == "arithmetic":
        q = _ordered_sum(weight[:, None] * p)
    else:
        log_q = _ordered_sum(weight[:, None] * np.log(np.maximum(p, TINY)))
        q = np.exp(log_q - log_q.max(axis=0, keepdims=True))
    return q / q.sum(axis=0, keepdims=True)


def _ordered_sum(values: np.ndarray) -> np.ndarray:
    """Sum over the first axis, first to last, one after the other."""
    total = values[0].copy()
    for value in values[1:]:
        total += value
    return total


def nearest_window(windows: Sequence[Window], panorama_width: int) -> tuple[np.ndarray, np.ndarray]:
    """For every column of the panorama the window in which it is nearest to the middle, and its column there.

    Windows have the panorama's full height. Two int64 arrays `(panorama_width,)`; of two equally near windows the one
    that begins further left counts (ours).
    """
    owner = np.empty(panorama_width, dtype=np.int64)
    column = np.empty(panorama_width, dtype=np.int64)
    for cell in coverage_tiles(windows, windows[0].height, panorama_width):
        steps = np.arange(cell.x1 - cell.x0)
        members = np.array([(view, x) for view, _, x in reversed(cell.members)])
        distance = np.stack([np.abs(2 * (x + steps) + 1 - windows[view].width) for view, x in members])
        nearest = distance.argmin(axis=0)
        owner[cell.columns] = members[nearest, 0]
        column[cell.columns] = members[nearest, 1] + steps
    return owner, column
