"""Measures of predictions and weight maps: boundaries, calibration, coverage, precision [O]. Pure functions."""

from __future__ import annotations

import numpy as np

from pipeline.geometry.boundaries import dilate, label_boundary

TOLERANCES = (1, 2, 4)  #: Distances in pixels within which two boundary pixels match.
BINS = 15  #: Number of bins of confidence, of equal width.


def boundary_counts(prediction: np.ndarray, truth: np.ndarray, ignore_index: int, *, cyclic: bool = True) -> np.ndarray:
    """Counts the boundary pixels of two label maps `(H, W)` and those that match a boundary pixel of the other map.

    All classes count together. Pixels that are ignored in `truth`, and their neighbours, belong to no boundary. Returns
    int64 `(len(TOLERANCES), 4)`: matched predicted, predicted, matched true and true pixels.
    """
    ignored = dilate(truth == ignore_index, 1, cyclic=cyclic)
    predicted = label_boundary(prediction, cyclic=cyclic) & ~ignored
    true = label_boundary(truth, cyclic=cyclic) & ~ignored
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
    """Returns the F-score in percent by tolerance, of (summed) `boundary_counts`; NaN without any boundary."""
    result = {}
    for radius, (matched_predicted, predicted, matched_true, true) in zip(TOLERANCES, counts.tolist(), strict=True):
        precision = matched_predicted / predicted if predicted else 0.0
        recall = matched_true / true if true else 0.0
        score = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        result[radius] = 100 * score if predicted or true else float("nan")
    return result


def calibration_counts(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Counts labelled pixels by bin of confidence: floats in 0..1 and bool of one shape.

    Returns float64 `(BINS, 3)`: pixels, sum of their confidence, and correct pixels.
    """
    index = np.minimum((confidence * BINS).astype(np.int64), BINS - 1).ravel()
    columns = [None, confidence.ravel(), correct.ravel()]
    return np.stack([np.bincount(index, weights=w, minlength=BINS).astype(np.float64) for w in columns], axis=1)


def expected_calibration_error(counts: np.ndarray) -> float:
    """Returns the ECE in percent, of (summed) `calibration_counts`; NaN without pixels."""
    total = counts[:, 0].sum()
    return 100 * float(np.abs(counts[:, 1] - counts[:, 2]).sum() / total) if total else float("nan")


def weight_counts(weight: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Counts pixels and correct pixels by weight: uint8 and bool of one shape to float64 `(256, 2)`."""
    index = weight.ravel()
    pixels = np.bincount(index, minlength=256)
    return np.stack([pixels, np.bincount(index, weights=correct.ravel(), minlength=256)], axis=1).astype(np.float64)


def coverage_and_precision(counts: np.ndarray) -> tuple[float, float]:
    """Returns the mean weight and the correct share of the weight, in percent, of (summed) `weight_counts`."""
    weight = np.arange(256) / 255
    total, weighted = counts[:, 0].sum(), float(weight @ counts[:, 0])
    coverage = 100 * weighted / total if total else float("nan")
    return coverage, 100 * float(weight @ counts[:, 1]) / weighted if weighted else float("nan")


def precision_at(counts: np.ndarray, coverage: float) -> float:
    """Returns the precision in percent of the share `coverage` (0..1) of all labelled pixels with the highest weights.

    Pixels of the weight at which the coverage is reached count in proportion.
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


def risk_area(counts: np.ndarray) -> float:
    """Returns the area under the risk-coverage curve in percent, of (summed) `weight_counts`; less is better.

    The risk at a coverage is the share of wrong pixels among those of the highest weights. Pixels of equal weight are
    in a random order. NaN without pixels.
    """
    falling = counts[::-1][counts[::-1, 0] > 0]
    if not len(falling):
        return float("nan")
    pixels, wrong = falling[:, 0], falling[:, 0] - falling[:, 1]
    pixels_before, wrong_before = np.cumsum(pixels) - pixels, np.cumsum(wrong) - wrong
    rate = wrong / pixels
    # The k-th pixel of a weight has the risk (wrong_before + k rate) / (pixels_before + k); sums of 1 / (n + k) are
    # differences of logarithms.
    steps = np.log((pixels_before + pixels + 0.5) / (pixels_before + 0.5))
    return 100 * float((wrong + (wrong_before - rate * pixels_before) * steps).sum() / pixels.sum())
