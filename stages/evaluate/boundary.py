"""Boundary F-score of a label map: how well its class boundaries lie on those of the truth. Pure functions (ours)."""

from __future__ import annotations

import numpy as np

from pipeline.geometry.boundaries import dilate, label_boundary

#: Distances in pixels within which a boundary pixel counts as found.
TOLERANCES = (1, 2, 4)


def boundary_counts(prediction: np.ndarray, truth: np.ndarray, ignore_index: int, *, cyclic: bool = True) -> np.ndarray:
    """Boundary pixels of two label maps `(H, W)`, and how many of them lie near one of the other map.

    int64 `(len(TOLERANCES), 4)`: predicted near a true one, predicted, true near a predicted one, true; all classes
    together. Where a pixel or its neighbour is ignored in the truth, neither map has a boundary.
    """
    unknown = dilate(truth == ignore_index, 1, cyclic=cyclic)
    predicted = label_boundary(prediction, cyclic=cyclic) & ~unknown
    true = label_boundary(truth, cyclic=cyclic) & ~unknown
    return np.array(
        [
            [
                np.count_nonzero(predicted & dilate(true, radius, cyclic=cyclic)),
                np.count_nonzero(predicted),
                np.count_nonzero(true & dilate(predicted, radius, cyclic=cyclic)),
                np.count_nonzero(true),
            ]
            for radius in TOLERANCES
        ]
    )


def boundary_f(counts: np.ndarray) -> dict[int, float]:
    """F-score in percent by tolerance, of (summed) `boundary_counts`; NaN where neither map has a boundary."""
    result = {}
    for radius, (found, predicted, hit, true) in zip(TOLERANCES, counts.tolist(), strict=True):
        precision, recall = found / predicted if predicted else 0.0, hit / true if true else 0.0
        nothing = not (predicted or true)
        score = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        result[radius] = float("nan") if nothing else 100 * score
    return result
