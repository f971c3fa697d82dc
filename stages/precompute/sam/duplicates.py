"""Greedy suppression of duplicates, best first. Candidates are looked at cheaply before they are up-sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from stages.precompute.sam.binary import PackedMasks, prompt_component
from stages.precompute.sam.lowres import Candidates, Geometry

#: A candidate whose low-resolution mask is this much more similar to a mask that stays than is allowed is a duplicate
#: for sure. Otherwise it is up-sampled and compared again.
DOUBT = 0.1


@dataclass(frozen=True)
class Mask:
    """A mask of a view: `inside` (bool `(h, w)`) fills its box, whose upper left corner is at column x, row y."""

    inside: np.ndarray
    x: int
    y: int
    predicted_iou: float
    stability_score: float
    point: tuple[float, float]
    crop_area: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """XYXY, the last column and row included."""
        height, width = self.inside.shape
        return self.x, self.y, self.x + width - 1, self.y + height - 1

    def on(self, size: tuple[int, int]) -> np.ndarray:
        """The mask on the whole view: bool `(H, W)`."""
        whole = np.zeros(size, dtype=bool)
        height, width = self.inside.shape
        whole[self.y : self.y + height, self.x : self.x + width] = self.inside
        return whole


class Duplicates(Protocol):
    """The masks that stay, so far, and what is a duplicate of one of them."""

    def surely(self, candidates: Candidates, k: int) -> bool:
        """Whether candidate `k` is one, as far as its low-resolution logits tell; false in doubt."""

    def has(self, mask: Mask) -> bool:
        """Whether `mask` is one."""

    def add(self, mask: Mask, candidates: Candidates, k: int) -> None:
        """`mask`, which was candidate `k`, stays."""


class SimilarBoxes:
    """Masks whose boxes have an IoU above `threshold`: segment_anything's rule."""

    def __init__(self, threshold: float, origin: tuple[int, int]) -> None:
        self._threshold = threshold
        self._origin = np.array([*origin, *origin])
        self._kept: list[tuple[int, int, int, int]] = []

    def surely(self, candidates: Candidates, k: int) -> bool:
        if not self._kept:
            return False
        kept = np.array(self._kept) - self._origin
        # the box lies between the inner and the outer one: at least the former's share is common, at most the latter's
        # area is added
        inner, outer = candidates.inner[k], candidates.outer[k]
        both, union = _intersection(kept, inner), _area(kept) + _area(outer) - _intersection(kept, outer)
        return bool((both > self._threshold * union).any())

    def has(self, mask: Mask) -> bool:
        if not self._kept:
            return False
        kept, own = np.array(self._kept), np.array(mask.box)
        both = _intersection(kept, own)
        return bool((both > self._threshold * (_area(kept) + _area(own) - both)).any())

    def add(self, mask: Mask, candidates: Candidates, k: int) -> None:
        self._kept.append(mask.box)


def _area(boxes: np.ndarray) -> np.ndarray:
    area: np.ndarray = (boxes[..., 2:] - boxes[..., :2]).clip(0).prod(axis=-1)
    return area


def _intersection(boxes: np.ndarray, other: np.ndarray) -> np.ndarray:
    corners = np.minimum(boxes[..., 2:], other[2:]) - np.maximum(boxes[..., :2], other[:2])
    area: np.ndarray = corners.clip(0).prod(axis=-1)
    return area


class SimilarMasks:
    """Masks that have an IoU above `threshold` themselves (ours)."""

    def __init__(self, threshold: float, size: tuple[int, int], geometry: Geometry, level: float, cut: bool) -> None:
        self._threshold, self._size, self._geometry, self._level, self._cut = threshold, size, geometry, level, cut
        self._low = PackedMasks(geometry.rows.taken * geometry.columns.taken)
        self._full = PackedMasks(size[0] * size[1])

    def surely(self, candidates: Candidates, k: int) -> bool:
        return self._low.largest_iou(self._lowres(candidates, k)) > self._threshold + DOUBT

    def has(self, mask: Mask) -> bool:
        return self._full.largest_iou(mask.on(self._size)) > self._threshold

    def add(self, mask: Mask, candidates: Candidates, k: int) -> None:
        self._low.add(self._lowres(candidates, k))
        self._full.add(mask.on(self._size))

    def _lowres(self, candidates: Candidates, k: int) -> np.ndarray:
        rows, columns = self._geometry.rows, self._geometry.columns
        mask = np.zeros((rows.taken, columns.taken), dtype=bool)
        (row, column), logits = candidates.corner[k], candidates.logits[k]
        mask[row : row + logits.shape[0], column : column + logits.shape[1]] = (logits > self._level).cpu().numpy()
        if not self._cut:
            return mask
        x, y = candidates.points[k]
        return prompt_component(mask, x / columns.scale, y / rows.scale)
