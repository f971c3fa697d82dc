"""Operations on binary masks: connected components, small regions, duplicates. Pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Structuring element of 8-connected components.
_EIGHT_CONNECTED = np.ones((3, 3), dtype=np.int8)


def prompt_component(mask: np.ndarray, x: float, y: float) -> np.ndarray:
    """Returns the 8-connected component of `mask` (bool `(h, w)`) at a point; the largest one if none is there.

    `x`, `y` are in pixels from the upper left corner, and may be outside. An empty mask stays empty.
    """
    from scipy.ndimage import label

    components, count = label(mask, structure=_EIGHT_CONNECTED)
    if count <= 1:
        return mask
    row, column = int(np.floor(y)), int(np.floor(x))
    is_inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
    component = components[row, column] if is_inside else 0
    if component == 0:
        component = 1 + np.bincount(components.ravel())[1:].argmax()
    result: np.ndarray = components == component
    return result


def remove_small_regions(mask: np.ndarray, min_area: int) -> np.ndarray:
    """Fills holes of `mask` (bool `(h, w)`) below `min_area` pixels, then removes components below it.

    Holes and components are 8-connected, as in segment_anything. If all components are small, the largest is kept (of
    equal ones the first by rows). Returns `mask` itself if nothing changes.
    """
    from scipy.ndimage import label

    holes, count = label(~mask, structure=_EIGHT_CONNECTED)
    small = np.bincount(holes.ravel(), minlength=count + 1) < min_area
    small[0] = False
    if small.any():
        mask = mask | small[holes]
    components, count = label(mask, structure=_EIGHT_CONNECTED)
    areas = np.bincount(components.ravel(), minlength=count + 1)
    keep = areas >= min_area
    keep[0] = False
    if count and not keep.any():
        keep[1 + areas[1:].argmax()] = True
    return mask if keep[1:].all() else keep[components]


def mask_nms(masks: Sequence[np.ndarray], scores: Sequence[float], threshold: float) -> list[int]:
    """Suppresses masks (each bool `(h, w)`) whose IoU with a better one that is kept exceeds `threshold`.

    Returns the indices of the kept masks, best score first, of equal ones the earlier first. Empty masks are dropped.
    """
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    indices: list[int] = []
    packed = PackedMasks(masks[0].size if masks else 0)
    for k in order.tolist():
        if masks[k].any() and packed.largest_iou(masks[k]) <= threshold:
            packed.add(masks[k])
            indices.append(k)
    return indices


class PackedMasks:
    """Masks of `size` pixels each, one bit per pixel."""

    def __init__(self, size: int) -> None:
        self._bits = np.zeros((8, -(-size // 8)), dtype=np.uint8)
        self._areas = np.zeros(8, dtype=np.int64)
        self._count = 0

    def largest_iou(self, mask: np.ndarray) -> float:
        """Returns the highest IoU of `mask` (bool, not empty) with one of these; 0 if there are none."""
        areas = self._areas[: self._count]
        intersection = np.bitwise_count(self._bits[: self._count] & np.packbits(mask)).sum(axis=1, dtype=np.int64)
        return float((intersection / (areas + np.count_nonzero(mask) - intersection)).max(initial=0))

    def add(self, mask: np.ndarray) -> None:
        """Adds a mask (bool)."""
        if self._count == len(self._areas):
            self._bits = np.concatenate([self._bits, np.zeros_like(self._bits)])
            self._areas = np.concatenate([self._areas, np.zeros_like(self._areas)])
        self._bits[self._count], self._areas[self._count] = np.packbits(mask), np.count_nonzero(mask)
        self._count += 1
