"""Prediction-level consistency (docs/method.md 3.1): the views' predictions pooled into one, and how far they disagree.

Pure functions on arrays, at the TA's native stride. Sums run in an order that depends on the pixels' place in the views
only, so that a rolled panorama gives the rolled result bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.config import PoolingSettings
from pipeline.labels import LabelSpace
from pipeline.views import Window, cells

#: Probabilities below this are treated as this in logarithms.
TINY = 1e-12


@dataclass(frozen=True)
class Pooled:
    """The stitched prediction ``S_TA^w``.

    ``probabilities`` float32 ``(C, h, w)`` on the panorama at native stride, sum 1 over classes; ``l_cc`` is the mean
    symmetric KL divergence (nats) of the views on the pixels that at least two cover, 0 if there are none;
    ``residual`` the mean over all pixels of sum_i a_i KL(p_i || pooled).
    """

    probabilities: np.ndarray
    l_cc: float
    residual: float


def softmax(logits: np.ndarray, axis: int) -> np.ndarray:
    """Softmax in float32 along ``axis``."""
    shifted = logits.astype(np.float32) - logits.max(axis=axis, keepdims=True).astype(np.float32)
    np.exp(shifted, out=shifted)
    return shifted / shifted.sum(axis=axis, keepdims=True)


def view_probabilities(logits: np.ndarray, source: LabelSpace, target: LabelSpace) -> np.ndarray:
    """Cached logits ``(V, C_source, h, w)`` as float32 probabilities ``(V, C, h, w)`` in the classes of ``target``."""
    probabilities = softmax(logits, axis=1)
    if source.classes == target.classes:
        return probabilities
    return np.stack([target.map_probabilities(view, source) for view in probabilities])


def position_weight(view: Window, panorama_width: int) -> np.ndarray:
    """Raised cosine of the distance to the view's edges inside the panorama: float32 ``(width,)`` in 0..1 (ours).

    A view that goes once round the ring has no such edge, and weight 1.
    """
    if view.width >= panorama_width:
        return np.ones(view.width, dtype=np.float32)
    centre = (np.arange(view.width) + 0.5) / view.width
    return (0.5 - 0.5 * np.cos(2 * np.pi * centre)).astype(np.float32)


def pool(probabilities: np.ndarray, views: Sequence[Window], panorama_width: int, settings: PoolingSettings) -> Pooled:
    """The views' ``probabilities`` ``(V, C, h, w)`` pooled on the panorama (``panorama_width`` columns).

    ``views`` and width are in pixels of the native grid. Weights are position x (1 - normalised entropy)^confidence,
    at least ``floor`` and normalised over the views of a pixel; "arithmetic" pools probabilities (the minimiser of
    sum a_i KL(p_i || q)), "log" their logarithms (that of sum a_i KL(q || p_i)) (docs/method.md 3.1, ours).
    """
    _, classes, height, _ = probabilities.shape
    pooled = np.empty((classes, height, panorama_width), dtype=np.float32)
    kl_sum, kl_pixels, residual_sum = 0.0, 0, 0.0
    for cell in cells(views, panorama_width):
        count = cell.x1 - cell.x0
        if not cell.members:
            raise ValueError(f"no view covers columns {cell.x0}..{cell.x1 - 1}")
        p = np.stack([probabilities[view, :, :, x : x + count] for view, x in cell.members])
        position = np.stack([position_weight(views[v], panorama_width)[x : x + count] for v, x in cell.members])
        weight = _weights(p, position, settings)
        q = _pooled(p, weight, settings)
        pooled[:, :, cell.x0 : cell.x1] = q
        log_p = np.log(np.maximum(p, TINY))
        residual_sum += float((weight * (p * (log_p - np.log(np.maximum(q, TINY)))).sum(axis=1)).sum(dtype=np.float64))
        for i in range(len(p)):
            for j in range(i + 1, len(p)):
                divergence = (p[i] - p[j]) * (log_p[i] - log_p[j])
                kl_sum += float(divergence.sum(dtype=np.float64))
                kl_pixels += divergence[0].size
    return Pooled(pooled, kl_sum / max(1, kl_pixels), residual_sum / (height * panorama_width))


def _weights(p: np.ndarray, position: np.ndarray, settings: PoolingSettings) -> np.ndarray:
    weight = np.broadcast_to(position[:, None, :], (p.shape[0], *p.shape[2:]))
    if settings.confidence:
        entropy = -(p * np.log(np.maximum(p, TINY))).sum(axis=1) / np.log(max(2, p.shape[1]))
        weight = weight * np.clip(1 - entropy, 0, 1) ** np.float32(settings.confidence)
    weight = np.maximum(weight, np.float32(settings.floor))
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


def owners(views: Sequence[Window], panorama_width: int) -> tuple[np.ndarray, np.ndarray]:
    """For every column of the panorama the view in which it is nearest to the middle, and its column there.

    Two int64 arrays ``(panorama_width,)``; of two equally near views the one that begins further left counts (ours).
    """
    owner = np.empty(panorama_width, dtype=np.int64)
    column = np.empty(panorama_width, dtype=np.int64)
    for cell in cells(views, panorama_width):
        steps = np.arange(cell.x1 - cell.x0)
        distance = np.stack([np.abs(2 * (x + steps) + 1 - views[view].width) for view, x in reversed(cell.members)])
        nearest = distance.argmin(axis=0)
        members = np.array(cell.members[::-1])
        owner[cell.x0 : cell.x1] = members[nearest, 0]
        column[cell.x0 : cell.x1] = members[nearest, 1] + steps
    return owner, column
