"""Expected mIoU of predictions whose true labels nobody knows [O].

If the probabilities of a prediction are calibrated, they say how much of each class is right, wrong and missed. The
mean IoU that follows needs no label. It falls where predictions become unsure, and where a class is no longer
predicted.
"""

from __future__ import annotations

import numpy as np


def expected_areas(probabilities: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Returns the expected areas of each class in pixels: float64 `(3, C)`, intersection, predicted and true.

    `probabilities` `(C, ...)` have sum 1 over `C`; `label` `(...)` is the prediction. Labels of `C` and above (the
    ignore index) are predicted as no class.
    """
    classes = probabilities.shape[0]
    by_class, flat = probabilities.reshape(classes, -1), label.reshape(-1)
    pixels = np.flatnonzero(flat < classes)
    predicted = flat[pixels]
    return np.stack(
        [
            np.bincount(predicted, weights=by_class[predicted, pixels], minlength=classes),
            np.bincount(predicted, minlength=classes),
            by_class.sum(axis=1, dtype=np.float64),
        ]
    )


def expected_miou(areas: np.ndarray, *, predicted_only: bool = False) -> float:
    """Returns the expected mIoU in percent over all `C` classes, of (summed) `expected_areas`.

    A class that is neither predicted nor expected counts with 0: rows of the same panoramas stay comparable. With
    `predicted_only` the mean is over the classes that are predicted, which compares panoramas with each other; it is
    NaN if there is none.
    """
    intersection, predicted, true = areas
    iou = intersection / np.maximum(predicted + true - intersection, 1)
    if predicted_only:
        iou = iou[predicted > 0]
    return 100 * float(np.mean(iou)) if len(iou) else float("nan")
