"""Majority votes inside masks, and painting the winners. Pure functions on arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.geometry.masks import MaskSet


class Votes(NamedTuple):
    """For every mask: `winner` int64 `(K,)`, the most frequent class (the lowest of equals), and `share` float64
    `(K,)`, the winner's part of the mask's pixels (`Y_max`); 0 and 0 for a mask without counted pixels."""

    winner: np.ndarray
    share: np.ndarray


def majority(masks: MaskSet, labels: np.ndarray, num_classes: int) -> Votes:
    """The majority class of `labels` `(H, W)` inside every mask (paper, CTCF: `Lcr` and `Y_max`)."""
    counts = masks.histograms(labels, num_classes)
    if not len(counts):
        return Votes(np.zeros(0, np.int64), np.zeros(0))
    winner = counts.argmax(axis=1)
    total = np.maximum(masks.table["area"], 1)
    return Votes(winner, counts[np.arange(len(counts)), winner] / total)


def topmost_mask_index(masks: MaskSet) -> np.ndarray:
    """For every pixel the smallest mask that holds it, as index; -1 where there is none: int32 `(H, W)`.

    This is what painting all masks largest first, smaller ones over them, leaves on top (docs/method.md 3.3,
    ours). Of equally large masks the one that stands later in the table is on top.
    """
    if not len(masks):
        return np.full(masks.shape, -1, dtype=np.int32)
    rank = np.empty(len(masks) + 1, dtype=np.int32)
    order = np.argsort(-masks.table["area"], kind="stable")
    rank[order + 1] = np.arange(1, len(masks) + 1)  # painted first .. painted last
    rank[0] = 0
    highest = rank[masks.planes[0]]
    for plane in masks.planes[1:]:
        np.maximum(highest, rank[plane], out=highest)
    index = np.empty(len(masks) + 1, dtype=np.int32)
    index[0] = -1
    index[1:] = order
    return index[highest]


def paste_masks(masks: MaskSet, values: np.ndarray, background: np.ndarray) -> np.ndarray:
    """`background` `(H, W)` with each mask's value painted in, largest mask first; a copy of its dtype."""
    top = topmost_mask_index(masks)
    if not len(masks):
        return background.copy()
    return np.where(top >= 0, values.astype(background.dtype)[top], background)
