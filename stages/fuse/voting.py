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
    if not len(counts):
        return Votes(np.zeros(0, np.int64), np.zeros(0))
    winner = counts.argmax(axis=1)
    total = np.maximum(masks.table["area"], 1)
    return Votes(winner, counts[np.arange(len(counts)), winner] / total)


def topmost_mask_index(masks: MaskSet) -> np.ndarray:
    """Returns the index of the smallest mask at every pixel, -1 without one: int32 `(H, W)`.

    It is the mask on top if all masks are pasted, largest first (docs/method.md 3.3) [O]. Of equally large masks the
    later one in the table is on top.
    """
    if not len(masks):
        return np.full(masks.shape, -1, dtype=np.int32)
    rank = np.empty(len(masks) + 1, dtype=np.int32)
    order = np.argsort(-masks.table["area"], kind="stable")
    rank[order + 1] = np.arange(1, len(masks) + 1)  # in the order of pasting
    rank[0] = 0
    highest = rank[masks.planes[0]]
    for plane in masks.planes[1:]:
        np.maximum(highest, rank[plane], out=highest)
    index = np.empty(len(masks) + 1, dtype=np.int32)
    index[0] = -1
    index[1:] = order
    return index[highest]


def paste_masks(masks: MaskSet, values: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Returns a copy of `background` `(H, W)` with each mask's value pasted in, largest mask first."""
    top = topmost_mask_index(masks)
    if not len(masks):
        return background.copy()
    return np.where(top >= 0, values.astype(background.dtype)[top], background)
