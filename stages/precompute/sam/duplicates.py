"""Greedy suppression of duplicates, best first. Candidates are compared cheaply before they are up-sampled."""

from __future__ import annotations

import numpy as np

from pipeline.geometry.masks import Mask
from stages.precompute.sam.binary import PackedMasks, prompt_component
from stages.precompute.sam.lowres import Candidate, Geometry

#: A candidate is surely a duplicate if the IoU of low-resolution masks exceeds the threshold by this. Otherwise it is
#: up-sampled and compared again.
LOWRES_MARGIN = 0.1


class BoxSuppression:
    """segment_anything's rule: boxes with an IoU above `threshold`. `origin` is the crop's corner (x, y)."""

    def __init__(self, threshold: float, origin: tuple[int, int]) -> None:
        self._threshold = threshold
        self._origin = np.array([*origin, *origin])
        self._boxes: list[tuple[int, int, int, int]] = []

    def is_sure_duplicate(self, candidate: Candidate) -> bool:
        """Whether the low-resolution logits show that `candidate` duplicates a kept mask; False in doubt."""
        return self._overlaps(candidate.inner + self._origin, candidate.outer + self._origin)

    def is_duplicate(self, mask: Mask) -> bool:
        """Whether `mask` duplicates a kept mask."""
        return self._overlaps(np.array(mask.box), np.array(mask.box))

    def keep(self, mask: Mask, candidate: Candidate) -> None:
        """Adds `mask`, which was `candidate`, to the kept masks."""
        self._boxes.append(mask.box)

    def _overlaps(self, inner: np.ndarray, outer: np.ndarray) -> bool:
        """Whether every box between `inner` and `outer` has an IoU above the threshold with a kept one."""
        boxes = np.reshape(self._boxes, (-1, 4))
        # The intersection is at least that with the inner box, the union at most that with the outer box.
        intersection, union = _intersection(boxes, inner), _area(boxes) + _area(outer) - _intersection(boxes, outer)
        return bool((intersection > self._threshold * union).any())


def _area(boxes: np.ndarray) -> np.ndarray:
    area: np.ndarray = (boxes[..., 2:] - boxes[..., :2]).clip(0).prod(axis=-1)
    return area


def _intersection(boxes: np.ndarray, other: np.ndarray) -> np.ndarray:
    sides = np.minimum(boxes[..., 2:], other[2:]) - np.maximum(boxes[..., :2], other[:2])
    area: np.ndarray = sides.clip(0).prod(axis=-1)
    return area


class MaskSuppression:
    """Masks with an IoU above `threshold` [O], in a view of `size` (H, W) and a crop of this `geometry`.

    Pixels of logits above `level` are in a mask, if `keep_prompt_component` only those of the component at its prompt.
    """

    def __init__(
        self, threshold: float, size: tuple[int, int], geometry: Geometry, level: float, keep_prompt_component: bool
    ) -> None:
        self._threshold, self._size, self._geometry, self._level = threshold, size, geometry, level
        self._keep_prompt_component = keep_prompt_component
        self._low = PackedMasks(geometry.rows.used * geometry.columns.used)
        self._full = PackedMasks(size[0] * size[1])

    def is_sure_duplicate(self, candidate: Candidate) -> bool:
        return self._low.largest_iou(self._lowres_mask(candidate)) > self._threshold + LOWRES_MARGIN

    def is_duplicate(self, mask: Mask) -> bool:
        return self._full.largest_iou(mask.dense(self._size)) > self._threshold

    def keep(self, mask: Mask, candidate: Candidate) -> None:
        self._low.add(self._lowres_mask(candidate))
        self._full.add(mask.dense(self._size))

    def _lowres_mask(self, candidate: Candidate) -> np.ndarray:
        rows, columns = self._geometry.rows, self._geometry.columns
        mask = np.zeros((rows.used, columns.used), dtype=bool)
        (row, column), (height, width) = candidate.corner, candidate.logits.shape
        mask[row : row + height, column : column + width] = (candidate.logits > self._level).cpu().numpy()
        if not self._keep_prompt_component:
            return mask
        x, y = candidate.point
        return prompt_component(mask, x / columns.scale, y / rows.scale)
