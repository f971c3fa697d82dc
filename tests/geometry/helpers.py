"""Helpers of tests that work on masks."""

from __future__ import annotations

import numpy as np

from pipeline.geometry.masks import MaskSet


def dense_stack(masks: MaskSet) -> np.ndarray:
    """Returns all masks as bool `(K, H, W)`."""
    return np.reshape(list(masks), (len(masks), *masks.shape)).astype(bool)
