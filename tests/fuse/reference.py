"""The slow, obvious versions of stage two: loops over pixels and masks."""

from __future__ import annotations

import numpy as np

from pipeline.geometry.masks import MaskSet
from pipeline.geometry.windows import Placement
from stages.fuse.settings import PoolingSettings


def pool(
    p: list[np.ndarray], placements: list[Placement], size: tuple[int, int], settings: PoolingSettings
) -> tuple[np.ndarray, float, float]:
    """Pooled probabilities, L_CC and residual, pixel by pixel in float64."""
    height, width = size
    classes = len(p[0])
    pooled = np.zeros((classes, height, width))
    divergences, residual = [], 0.0
    for y in range(height):
        for x in range(width):
            predictions, weights = [], []
            for view, placement in zip(p, placements, strict=True):
                row, column = y - placement.window.y0, (x - placement.window.x0) % width
                if column >= placement.window.width or not 0 <= row < placement.window.height:
                    continue
                a = float(placement.weight[row, column])
                if a == 0:
                    continue
                q = view[:, row, column].astype(np.float64)
                entropy = -sum(v * np.log(v) for v in q if v > 1e-12) / np.log(max(2, classes))
                predictions.append(q)
                weights.append(max(settings.floor, a * max(0.0, 1 - entropy) ** settings.confidence))
            weights = np.array(weights) / np.sum(weights)
            if settings.mode == "arithmetic":
                mixed = sum(a * q for a, q in zip(weights, predictions, strict=True))
            else:
                mixed = np.exp(sum(a * np.log(np.maximum(q, 1e-12)) for a, q in zip(weights, predictions, strict=True)))
            mixed = mixed / mixed.sum()
            pooled[:, y, x] = mixed
            residual += sum(
                a * float(np.sum(q * (np.log(np.maximum(q, 1e-12)) - np.log(np.maximum(mixed, 1e-12)))))
                for a, q in zip(weights, predictions, strict=True)
            )
            for i in range(len(predictions)):
                for j in range(i + 1, len(predictions)):
                    a, b = predictions[i], predictions[j]
                    la, lb = np.log(np.maximum(a, 1e-12)), np.log(np.maximum(b, 1e-12))
                    divergences.append(float(np.sum(a * (la - lb)) + np.sum(b * (lb - la))))
    return pooled, float(np.mean(divergences)) if divergences else 0.0, residual / (height * width)


def vote(masks: MaskSet, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and winner's share painted mask by mask, largest first: SSA's loop."""
    result, share = labels.copy(), np.full(labels.shape, np.nan)
    order = sorted(range(len(masks)), key=lambda k: -int(masks.mask(k).sum()))
    for k in order:
        mask = masks.mask(k)
        if not mask.any():
            continue
        counts = [int(np.sum(labels[mask] == c)) for c in range(classes)]
        result[mask] = int(np.argmax(counts))
        share[mask] = max(counts) / mask.sum()
    return result, share
