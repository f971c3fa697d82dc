"""Class balancing by the frequency of the classes in the pseudo-labels [O]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.data.samples import Reader

LIMIT = 10.0  #: Largest weight of a class, relative to the average pixel.
MIN_SHARE = 1e-15  #: Least share of a class: far below one pixel of a large data set.


def class_shares(reader: Reader, ids: Sequence[str], classes: int) -> np.ndarray:
    """Returns the share of every class among the labelled pixels: float64 `(classes,)`, sum 1 (or all 0)."""
    counts = np.zeros(256, dtype=np.int64)
    for image_id in ids:
        counts += np.bincount(reader.label(image_id).ravel(), minlength=256)
    return counts[:classes] / max(1, counts[:classes].sum())


def class_weights(shares: np.ndarray, exponent: float, limit: float = LIMIT) -> np.ndarray:
    """Returns `w_c ~ share_c^-exponent`, scaled to a mean of 1 over the labelled pixels, and at most `limit`.

    `shares` are those of `class_shares`. An exponent of 0 gives all pixels the same weight, 1 all classes. The result
    is float64 `(classes,)`, 1 for classes that do not occur.
    """
    weights, present = np.ones_like(shares), shares > 0
    raw = np.maximum(shares[present], MIN_SHARE) ** -exponent
    weights[present] = np.minimum(raw / (shares[present] * raw).sum(), limit)
    return weights
