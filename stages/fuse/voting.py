"""Majority votes inside masks, and label maps from the winners. Pure functions on arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.geometry.masks import MaskSet


class Votes(NamedTuple):
    """The most frequent class of each mask (the lowest of equals), int64 `(K,)`, and its share `Y_max`, float64 `(K,)`.

    Both are 0 for a mask without counted pixels.
    """

    winner: np.ndarray
    share: np.ndarray


def majority(masks: MaskSet, labels: np.ndarray, num_classes: int) -> Votes:
    """Returns the majority class of `labels` `(H, W)` inside every mask (CTCF: `Lcr` and `Y_max`) [P]."""
    counts = masks.histograms(labels, num_classes)
    return Votes(counts.argmax(axis=1), counts.max(axis=1) / np.maximum(masks.table["area"], 1))


def paste_masks(masks: MaskSet, values: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Returns a copy of `background` `(H, W)` with the `values` `(K,)` of masks pasted in, largest mask first [O].

    The smallest mask is on top (docs/method.md 3.3), of equally large ones the later in the table.
    """
    order = np.argsort(-masks.table["area"], kind="stable")
    rank = np.zeros(len(masks) + 1, dtype=np.int32)
    rank[order + 1] = np.arange(1, len(masks) + 1)
    highest = np.zeros(masks.shape, dtype=np.int32)
    for plane in masks.planes:
        np.maximum(highest, rank[plane], out=highest)
    pasted = np.append(0, values[order]).astype(background.dtype)
    return np.where(highest > 0, pasted[highest], background)
