"""Whether a prediction's probabilities and weights can be trusted: calibration, coverage, precision. Pure functions."""

from __future__ import annotations

import numpy as np

#: Bins of equal width that calibration is measured in.
BINS = 15


def calibration_counts(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Pixels, sum of confidence and correct pixels by bin of confidence: float64 `(BINS, 3)`.

    `confidence` in 0..1 and `correct` bool have one shape: the labelled pixels.
    """
    index = np.minimum((confidence * BINS).astype(np.int64), BINS - 1).ravel()
    columns = [None, confidence.ravel(), correct.ravel()]
    return np.stack([np.bincount(index, weights=w, minlength=BINS).astype(np.float64) for w in columns], axis=1)


def expected_calibration_error(counts: np.ndarray) -> float:
    """ECE in percent, of (summed) `calibration_counts`; NaN without pixels."""
    total = counts[:, 0].sum()
    return 100 * float(np.abs(counts[:, 1] - counts[:, 2]).sum() / total) if total else float("nan")


def weight_counts(weight: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Pixels and correct pixels by `weight` (uint8; `correct` is bool): float64 `(256, 2)`."""
    index = weight.ravel()
    pixels = np.bincount(index, minlength=256)
    return np.stack([pixels, np.bincount(index, weights=correct.ravel(), minlength=256)], axis=1).astype(np.float64)


def coverage_and_precision(counts: np.ndarray) -> tuple[float, float]:
    """Mean weight, and the correct share of the weight (`E_H`), in percent, of (summed) `weight_counts`."""
    weight = np.arange(256) / 255
    total, weighted = counts[:, 0].sum(), float(weight @ counts[:, 0])
    coverage = 100 * weighted / total if total else float("nan")
    return coverage, 100 * float(weight @ counts[:, 1]) / weighted if weighted else float("nan")


def precision_at(counts: np.ndarray, coverage: float) -> float:
    """Precision in percent of the `coverage` (0..1) of all labelled pixels with the highest weight.

    Of the weight at which the coverage is reached, pixels count in proportion.
    """
    falling = counts[::-1]
    pixels, correct = np.cumsum(falling[:, 0]), np.cumsum(falling[:, 1])
    wanted = coverage * pixels[-1]
    if not wanted:
        return float("nan")
    last = int(np.searchsorted(pixels, wanted))
    before = pixels[last] - falling[last, 0]
    part = (wanted - before) / falling[last, 0]
    return 100 * float((correct[last] - falling[last, 1] + part * falling[last, 1]) / wanted)
