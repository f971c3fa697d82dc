"""Window masks to panorama masks: lifting round the ring, and the boundary (docs/method.md 2). Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.boundaries import label_boundary
from pipeline.masks import MaskSet, MaskSetBuilder, mask_box
from pipeline.views import Window, cyclic_columns


def sam_boundary(sets: Sequence[MaskSet], views: Sequence[Window], size: tuple[int, int]) -> np.ndarray:
    """``B_SAM``: the outline of all window masks, as bool ``(H, W)`` (operator and source: ours).

    The windows' own edges are no outline: there the operator has no right neighbour, and the next window covers them.
    """
    boundary = np.zeros(size, dtype=bool)
    for masks, view in zip(sets, views, strict=True):
        outline = np.any(label_boundary(masks.planes, cyclic=view.width == size[1]), axis=0)
        rows = slice(view.y0, view.y0 + view.height)
        for panorama, own in cyclic_columns(view.x0, view.width, size[1]):
            boundary[rows, panorama] |= outline[:, own]
    return boundary


def lift(sets: Sequence[MaskSet], views: Sequence[Window], size: tuple[int, int], agreement: float) -> MaskSet:
    """Panorama masks of the window masks (ours).

    Two masks of overlapping windows are one if each is the other's best partner on the shared pixels and their IoU
    there is at least ``agreement``; the panorama mask is the union of all that are one, across the seam too. Scores are
    the area-weighted mean of the parts, the prompt is that of the largest part. Masks come largest first, in an order
    that does not depend on where the panorama was cut open.

    Raises ``ValueError`` for more masks than a set can hold.
    """
    parts = [(view, k) for view, masks in enumerate(sets) for k in range(len(masks))]
    first = np.cumsum([0, *(len(masks) for masks in sets)])
    group = np.arange(len(parts))
    for i in range(len(views)):
        for j in range(i + 1, len(views)):
            for a, b in _agreeing(sets[i], sets[j], views[i], views[j], size[1], agreement):
                _union(group, first[i] + a, first[j] + b)
    members: dict[int, list[tuple[int, int]]] = {}
    for index, part in enumerate(parts):
        members.setdefault(_root(group, index), []).append(part)
    lifted = [_assemble(group_parts, sets, views, size[1]) for group_parts in members.values()]
    lifted.sort(key=lambda mask: mask.order)
    builder = MaskSetBuilder(*size)
    for mask in lifted:
        builder.add(
            mask.inside,
            mask.x,
            mask.y,
            predicted_iou=mask.predicted_iou,
            stability_score=mask.stability_score,
            point=mask.point,
        )
    return builder.build()


@dataclass(frozen=True)
class _Lifted:
    """One panorama mask: ``inside`` bool ``(h, w)`` is its box, at row ``y`` and column ``x`` (may cross the seam)."""

    inside: np.ndarray
    x: int
    y: int
    predicted_iou: float
    stability_score: float
    point: tuple[float, float]

    @cached_property
    def order(self) -> tuple[float, ...]:
        """Largest first; ties by score, then by rows and box, none of which changes in a roll; last by column."""
        height, width = self.inside.shape
        score = 0.0 if np.isnan(self.predicted_iou) else self.predicted_iou
        return (-int(np.count_nonzero(self.inside)), -score, self.y, height, width, self.x)


def _agreeing(
    left: MaskSet, right: MaskSet, left_view: Window, right_view: Window, width: int, agreement: float
) -> list[tuple[int, int]]:
    if not (len(left) and len(right)):
        return []
    _, a, b = np.intersect1d(left_view.columns(width), right_view.columns(width), return_indices=True)
    top = max(left_view.y0, right_view.y0)
    bottom = min(left_view.y0 + left_view.height, right_view.y0 + right_view.height)
    if not len(a) or top >= bottom:
        return []
    left_planes = left.planes[:, top - left_view.y0 : bottom - left_view.y0][..., a]
    right_planes = right.planes[:, top - right_view.y0 : bottom - right_view.y0][..., b]
    shape = (len(left) + 1, len(right) + 1)
    shared = np.zeros(shape, dtype=np.int64)
    for p in left_planes:
        for q in right_planes:
            index = p.astype(np.int64) * shape[1] + q
            shared += np.bincount(index.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    # every pair of planes counted the labels of p once per plane of the other side
    left_area = shared.sum(axis=1)[1:] / len(right_planes)
    right_area = shared.sum(axis=0)[1:] / len(left_planes)
    shared = shared[1:, 1:]
    union = left_area[:, None] + right_area[None, :] - shared
    iou = np.where(shared > 0, shared / np.maximum(union, 1), 0.0)
    best_right, best_left = iou.argmax(axis=1), iou.argmax(axis=0)
    return [(m, int(n)) for m, n in enumerate(best_right) if best_left[n] == m and iou[m, n] >= agreement]


def _root(group: np.ndarray, k: int) -> int:
    while group[k] != k:
        group[k] = group[group[k]]
        k = int(group[k])
    return k


def _union(group: np.ndarray, a: int, b: int) -> None:
    group[_root(group, b)] = _root(group, a)


def _assemble(
    parts: Sequence[tuple[int, int]], sets: Sequence[MaskSet], views: Sequence[Window], width: int
) -> _Lifted:
    """The union of some window masks, in the smallest box round them."""
    pieces = []
    for index, k in parts:
        masks, view, row = sets[index], views[index], sets[index].table[k]
        x, y, w, h = (int(row[f"box_{side}"]) for side in "xywh")
        if w == 0:  # a foreign table without boxes
            x, y, w, h = 0, 0, view.width, view.height
        pieces.append((view.x0 + x, view.y0 + y, masks.planes[row["plane"], y : y + h, x : x + w] == k + 1))
    start, columns = _arc([(x, part.shape[1]) for x, _, part in pieces], width)
    top = min(y for _, y, _ in pieces)
    bottom = max(y + part.shape[0] for _, y, part in pieces)
    union = np.zeros((bottom - top, columns), dtype=bool)
    for x, y, part in pieces:
        # the arc holds every piece in one go, unless it is the whole ring
        for target, own in cyclic_columns((x - start) % width, part.shape[1], width):
            union[y - top : y - top + part.shape[0], target] |= part[:, own]
    x, y, w, h = mask_box(union, cyclic=columns == width)
    tight = np.take(union[y : y + h], np.arange(x, x + w), axis=1, mode="wrap")
    iou, stability, point = _scores(parts, sets, views, width)
    return _Lifted(tight, (start + x) % width, top + y, iou, stability, point)


def _arc(intervals: Sequence[tuple[int, int]], width: int) -> tuple[int, int]:
    """The shortest arc of the ring that holds all intervals ``(first column, length)``: its start and length."""
    held = np.zeros((1, width), dtype=bool)
    for x, length in intervals:
        for columns, _ in cyclic_columns(x, min(length, width), width):
            held[0, columns] = True
    start, _, length, _ = mask_box(held, cyclic=True)
    return start, length


def _scores(
    parts: Sequence[tuple[int, int]], sets: Sequence[MaskSet], views: Sequence[Window], width: int
) -> tuple[float, float, tuple[float, float]]:
    rows = np.array([sets[view].table[k] for view, k in parts])
    weight = rows["area"] / max(1, rows["area"].sum())
    largest = int(rows["area"].argmax())
    view = views[parts[largest][0]]
    point = ((rows["point_x"][largest] + view.x0) % width, rows["point_y"][largest] + view.y0)
    return float(rows["predicted_iou"] @ weight), float(rows["stability_score"] @ weight), point
