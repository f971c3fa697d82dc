"""Operations on binary masks: connected pieces, small regions, duplicates. Arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_EIGHT = np.ones((3, 3), dtype=np.int8)


def prompt_component(mask: np.ndarray, x: float, y: float) -> np.ndarray:
    """The 8-connected piece of `mask` (bool `(h, w)`) that holds the point; the largest one if none does.

    `x`, `y` are in pixels from the upper left corner, and may lie outside. An empty mask stays empty.
    """
    from scipy.ndimage import label

    pieces, count = label(mask, structure=_EIGHT)
    if count <= 1:
        return mask
    row, column = int(np.floor(y)), int(np.floor(x))
    inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
    piece = pieces[row, column] if inside else 0
    if piece == 0:
        piece = 1 + np.bincount(pieces.ravel())[1:].argmax()
    kept: np.ndarray = pieces == piece
    return kept


def remove_small_regions(mask: np.ndarray, min_area: int) -> np.ndarray:
    """`mask` (bool `(h, w)`) with holes below `min_area` pixels filled, then pieces below it removed.

    Holes and pieces are 8-connected, as in segment_anything; where every piece is small, the largest stays (of
    equals the first by rows). Returns `mask` itself if there was nothing to do.
    """
    from scipy.ndimage import label

    holes, count = label(~mask, structure=_EIGHT)
    small = np.bincount(holes.ravel(), minlength=count + 1) < min_area
    small[0] = False
    if small.any():
        mask = mask | small[holes]
    pieces, count = label(mask, structure=_EIGHT)
    areas = np.bincount(pieces.ravel(), minlength=count + 1)
    keep = areas >= min_area
    keep[0] = False
    if count and not keep.any():
        keep[1 + areas[1:].argmax()] = True
    return mask if keep[1:].all() else keep[pieces]


def mask_nms(masks: Sequence[np.ndarray], scores: Sequence[float], threshold: float) -> list[int]:
    """Greedy non-maximum suppression by the IoU of masks (each bool `(h, w)`).

    Returns the indices that stay, best score first (of equal ones the earlier first): those whose IoU with every
    better mask that stays is at most `threshold`. Empty masks do not stay.
    """
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    kept: list[int] = []
    seen = PackedMasks(masks[0].size if masks else 0)
    for k in order.tolist():
        if masks[k].any() and seen.largest_iou(masks[k]) <= threshold:
            seen.add(masks[k])
            kept.append(k)
    return kept


class PackedMasks:
    """Masks of `size` pixels each, a bit a pixel."""

    def __init__(self, size: int) -> None:
        self._bits = np.zeros((8, -(-size // 8)), dtype=np.uint8)
        self._areas = np.zeros(8, dtype=np.int64)
        self._count = 0

    def largest_iou(self, mask: np.ndarray) -> float:
        """The IoU of `mask` (bool, not empty) with the most similar one of these; 0 if there are none."""
        if not self._count:
            return 0.0
        areas = self._areas[: self._count]
        both = np.bitwise_count(self._bits[: self._count] & np.packbits(mask)).sum(axis=1, dtype=np.int64)
        return float((both / (areas + np.count_nonzero(mask) - both)).max())

    def add(self, mask: np.ndarray) -> None:
        """One more mask (bool)."""
        if self._count == len(self._areas):
            self._bits = np.concatenate([self._bits, np.zeros_like(self._bits)])
            self._areas = np.concatenate([self._areas, np.zeros_like(self._areas)])
        self._bits[self._count], self._areas[self._count] = np.packbits(mask), np.count_nonzero(mask)
        self._count += 1
