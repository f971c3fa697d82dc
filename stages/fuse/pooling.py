"""Prediction-level consistency (docs/method.md 3.1): pools the views' predictions and measures their disagreement.

Pure functions on arrays, at the TA's native stride. The order of every sum depends only on the pixels' positions in the
views, so a rolled panorama gives the rolled result bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import scipy  # its subpackages are loaded when they are used

from pipeline.data.labels import LabelSpace
from pipeline.geometry.windows import Placement, Window, coverage_tiles
from stages.fuse.settings import PoolingSettings

#: Lower bound of probabilities in logarithms.
TINY = 1e-12


@dataclass(frozen=True)
class Pooled:
    """The stitched prediction `S_TA^w`.

    Attributes:
        probabilities: float32 `(C, h, w)` on the panorama at native stride, sum 1 over classes.
        l_cc: `L_CC`, mean symmetric KL divergence (nats) of the views over pixels that at least two cover, else 0.
        residual: mean over all pixels of sum_i a_i KL(p_i || pooled).
    """

    probabilities: np.ndarray
    l_cc: float
    residual: float


def class_probabilities(logits: np.ndarray, source: LabelSpace, target: LabelSpace) -> np.ndarray:
    """Converts a view's logits `(C_source, h, w)` to float32 probabilities `(C, h, w)` in the classes of `target`."""
    probabilities: np.ndarray = scipy.special.softmax(logits.astype(np.float32), axis=0)
    if source.classes == target.classes:
        return probabilities
    return target.map_probabilities(probabilities, source)


def pool(
    probabilities: Sequence[np.ndarray],
    placements: Sequence[Placement],
    size: tuple[int, int],
    settings: PoolingSettings,
) -> Pooled:
    """Pools the views' predictions (docs/method.md 3.1) [O].

    Weights are position x (1 - normalised entropy)^confidence, at least `floor` on pixels that the view covers, and
    normalised over the views of a pixel. "arithmetic" pools probabilities (the minimiser of sum a_i KL(p_i || q)),
    "log" their logarithms (that of sum a_i KL(q || p_i)).

    `probabilities` are those of each view, `(C, h, w)` of its placement's window on a grid of `size` (height, width).
    Raises `ValueError` if no view covers a pixel.
    """
    height, width = size
    pooled = np.empty((len(probabilities[0]), height, width), dtype=np.float32)
    kl_sum, kl_pixels, residual_sum = 0.0, 0, 0.0
    for tile in coverage_tiles([placement.window for placement in placements], height, width):
        y, x = tile.rows, tile.columns
        positions = [placements[view].weight[rows, columns] for view, rows, columns in tile.members]
        if not positions or not np.any([weight > 0 for weight in positions], axis=0).all():
            raise ValueError(f"no view covers all of rows {y.start}..{y.stop - 1}, columns {x.start}..{x.stop - 1}")
        p = np.stack([probabilities[view][:, rows, columns] for view, rows, columns in tile.members])
        position = np.stack(positions)
        covered = position > 0
        weight = _weights(p, position, settings)
        q = _pooled(p, weight, settings)
        pooled[:, y, x] = q
        log_p = np.log(np.maximum(p, TINY))
        residual_sum += float((weight * (p * (log_p - np.log(np.maximum(q, TINY)))).sum(axis=1)).sum(dtype=np.float64))
        for i in range(len(p)):
            for j in range(i + 1, len(p)):
                overlap = covered[i] & covered[j]
                divergence = ((p[i] - p[j]) * (log_p[i] - log_p[j])).sum(axis=0)
                kl_sum += float(divergence[overlap].sum(dtype=np.float64))
                kl_pixels += int(np.count_nonzero(overlap))
    return Pooled(pooled, kl_sum / max(1, kl_pixels), residual_sum / (height * width))


# `reduce` adds strictly from the first view to the last; the order of `np.sum` depends on the memory layout.
def _weights(p: np.ndarray, position: np.ndarray, settings: PoolingSettings) -> np.ndarray:
    weight = position
    if settings.confidence:
        entropy = -(p * np.log(np.maximum(p, TINY))).sum(axis=1) / np.log(max(2, p.shape[1]))
        weight = weight * np.clip(1 - entropy, 0, 1) ** np.float32(settings.confidence)
    weight = np.where(position > 0, np.maximum(weight, np.float32(settings.floor)), np.float32(0))
    return weight / reduce(np.add, weight)


def _pooled(p: np.ndarray, weight: np.ndarray, settings: PoolingSettings) -> np.ndarray:
    if settings.mode == "arithmetic":
        q = reduce(np.add, weight[:, None] * p)
    else:
        log_q = reduce(np.add, weight[:, None] * np.log(np.maximum(p, TINY)))
        q = np.exp(log_q - log_q.max(axis=0, keepdims=True))
    return q / q.sum(axis=0, keepdims=True)


def nearest_window(windows: Sequence[Window], panorama_width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns for every column of the panorama the window whose middle is nearest, and the column in that window.

    Windows have the panorama's full height; of two equally near windows the one that begins further left is chosen [O].
    Two int64 arrays `(panorama_width,)`.
    """
    index = np.empty(panorama_width, dtype=np.int64)
    column = np.empty(panorama_width, dtype=np.int64)
    for tile in coverage_tiles(windows, windows[0].height, panorama_width):
        steps = np.arange(tile.columns.stop - tile.columns.start)
        members = np.array([(view, columns.start) for view, _, columns in reversed(tile.members)])
        distance = np.stack([np.abs(2 * (x + steps) + 1 - windows[view].width) for view, x in members])
        nearest = distance.argmin(axis=0)
        index[tile.columns] = members[nearest, 0]
        column[tile.columns] = members[nearest, 1] + steps
    return index, column


def likelier_window(
    windows: Sequence[Window], labels: np.ndarray, log_probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns for every pixel of the panorama the window whose label it takes, and the column in that window.

    `labels` `(V, H, w)` are those of each window, `log_probabilities` `(C, H, W)` the stitched prediction. A label
    counts by its stitched probability times the pixel's distance to the window's nearer edge, so that no label is cut
    by the edge of a window [O]. Windows have the panorama's full height; of equal ones the one that begins further left
    is chosen. Two int64 arrays `(H, W)`.
    """
    classes, height, width = log_probabilities.shape
    best = np.full((height, width), -1.0, dtype=np.float32)
    index, column = (np.zeros((height, width), dtype=np.int64) for _ in range(2))
    highest = log_probabilities.max(axis=0)
    for number, (window, label) in enumerate(zip(windows, labels, strict=True)):
        x, own = window.columns(width), np.arange(window.width)
        values = np.take_along_axis(log_probabilities[:, :, x], np.minimum(label, classes - 1)[None].astype(np.intp), 0)
        score = np.exp(values[0] - highest[:, x]) * np.minimum(own + 1, window.width - own).astype(np.float32)
        better = (score > best[:, x]) | ((score == best[:, x]) & (own > column[:, x]))
        best[:, x] = np.where(better, score, best[:, x])
        index[:, x] = np.where(better, number, index[:, x])
        column[:, x] = np.where(better, own, column[:, x])
    return index, column
