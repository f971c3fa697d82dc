"""Class balancing by the rarity of the pseudo-labels (ours)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.data.samples import Reader

#: No class weighs more than this many times the average pixel.
LIMIT = 10.0

#: A smaller share counts as this one: far below one pixel of a large data set.
TINIEST = 1e-15


def class_shares(reader: Reader, ids: Sequence[str], classes: int) -> np.ndarray:
    """The share of every class among the labelled pixels of the images: float64 `(classes,)`, sum 1 (or all 0)."""
    counts = np.zeros(256, dtype=np.int64)
    for image_id in ids:
        counts += np.bincount(reader.label(image_id).ravel(), minlength=256)
    return counts[:classes] / max(1, counts[:classes].sum())


def class_weights(shares: np.ndarray, exponent: float, limit: float = LIMIT) -> np.ndarray:
    """`w_c ~ share_c^-exponent`, scaled so that the average labelled pixel weighs 1, at most `limit`.

    Args:
        shares: see `class_shares`.
        exponent: 0 weighs all pixels alike, 1 all classes.

    Returns:
        float64 `(classes,)`; 1 for classes that do not occur.
    """
    present = shares > 0
    weights = np.ones_like(shares)
    if not present.any():
        return weights
    raw = np.maximum(shares[present], TINIEST) ** -exponent
    weights[present] = np.minimum(raw / (shares[present] * raw).sum(), limit)
    return weights
