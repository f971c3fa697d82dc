"""Views' masks to panorama masks: lifting round the ring, and the boundary (docs/method.md 2). Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import find_objects
from scipy.spatial import cKDTree

from pipeline.geometry.boundaries import label_boundary
from pipeline.geometry.masks import MaskSet, MaskSetBuilder, mask_box
from pipeline.geometry.views import View
from pipeline.geometry.windows import Placement, Window, cyclic_columns


@dataclass(frozen=True)
class ProjectedMasks:
    """A view's masks on the rectangle of the panorama that holds the view, at pixels."""

    masks: MaskSet
    placement: Placement

    @property
    def window(self) -> Window:
        return self.placement.window


def project_to_panorama(masks: MaskSet, view: View, size: tuple[int, int]) -> ProjectedMasks:
    """A view's masks on a panorama of `size` (H, W): as they are for a window, else by the nearest pixel of the view.

    A mask of which nothing is left is dropped.
    """
    placement = view.place(size, 1)
    if placement.rows is None:
        return ProjectedMasks(masks, placement)
    planes = placement.nearest(masks.planes)
    table = masks.table.copy()
    for side in "xywh":
        table[f"box_{side}"] = 0
    for plane in planes:
        for k, box in enumerate(find_objects(plane, max_label=len(masks))):
            if box is not None:
                table["box_y"][k], table["box_h"][k] = box[0].start, box[0].stop - box[0].start
                table["box_x"][k], table["box_w"][k] = box[1].start, box[1].stop - box[1].start
    moved = MaskSet(planes, table)
    table["area"] = moved.histograms(np.zeros(moved.shape, np.uint8), 1)[:, 0]
    table["point_x"], table["point_y"] = _points(placement, table)
    return ProjectedMasks(moved.select(table["area"] > 0), placement)


def _points(placement: Placement, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of a view at the nearest pixel of its placement's window; NaN stays NaN."""
    assert placement.rows is not None
    assert placement.columns is not None
    ys, xs = np.nonzero(placement.covered)
    tree = cKDTree(np.column_stack([placement.columns[ys, xs], placement.rows[ys, xs]]))
    known = ~np.isnan(table["point_x"])
    _, nearest = tree.query(np.column_stack([table["point_x"][known], table["point_y"][known]]))
    x, y = table["point_x"].copy(), table["point_y"].copy()
    x[known], y[known] = xs[nearest], ys[nearest]
    return x, y


def sam_boundary(placed: Sequence[ProjectedMasks], size: tuple[int, int]) -> np.ndarray:
    """`B_SAM`: the outline of all views' masks, as bool `(H, W)` (operator and source: ours).

    The views' own edges are no outline: there the operator has no right or lower neighbour, and the next view covers
    them.
    """
    boundary = np.zeros(size, dtype=bool)
    for each in placed:
        window, cyclic = each.window, each.window.width == size[1]
        outline = np.any(label_boundary(each.masks.planes, cyclic=cyclic), axis=0)
        if each.placement.rows is not None:
            outline &= ~label_boundary(each.placement.covered, cyclic=cyclic)
        rows = slice(window.y0, window.y0 + window.height)
        for panorama, own in cyclic_columns(window.x0, window.width, size[1]):
            boundary[rows, panorama] |= outline[:, own]
    return boundary


def merge_view_masks(
    placed: Sequence[ProjectedMasks], size: tuple[int, int], merge_iou_thresh: float, nms_iou_thresh: float = 1.0
) -> MaskSet:
    """Panorama masks of the views' masks (ours).

    Two masks of overlapping views are one if each is the other's best partner on the pixels that both views see and
    their IoU there is at least `merge_iou_thresh`; the panorama mask is the union of all that are one, also across the
    seam.
    Scores are the area-weighted mean of the parts, the prompt is that of the largest part. Of two panorama masks whose
    IoU is above `nms_iou_thresh` the one with the higher predicted IoU stays. Masks come largest first, in an order that
    does not depend on where the panorama was cut open.

    Raises `ValueError` for more masks than a set can hold.
    """
    parts = [(view, k) for view, each in enumerate(placed) for k in range(len(each.masks))]
    first = np.cumsum([0, *(len(each.masks) for each in placed)])
    group = np.arange(len(parts))
    for i in range(len(placed)):
        for j in range(i + 1, len(placed)):
            for a, b in _agreeing(placed[i], placed[j], size[1], merge_iou_thresh):
                _union(group, first[i] + a, first[j] + b)
    members: dict[int, list[tuple[int, int]]] = {}
    for index, part in enumerate(parts):
        members.setdefault(_root(group, index), []).append(part)
    lifted = [_assemble(group_parts, placed, size[1]) for group_parts in members.values()]
    lifted.sort(key=lambda mask: mask.order)
    if nms_iou_thresh < 1:
        lifted = _without_duplicates(lifted, nms_iou_thresh, size[1])
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
    """One panorama mask: `inside` bool `(h, w)` is its box, at row `y` and column `x` (may cross the seam)."""

    inside: np.ndarray
    x: int
    y: int
    predicted_iou: float
    stability_score: float
    point: tuple[float, float]

    @cached_property
    def area(self) -> int:
        return int(np.count_nonzero(self.inside))

    @property
    def score(self) -> float:
        return 0.0 if np.isnan(self.predicted_iou) else self.predicted_iou

    @property
    def order(self) -> tuple[float, ...]:
        """Largest first; ties by score, then by rows and box, none of which changes in a roll; last by column."""
        return (-self.area, -self.score, self.y, *self.inside.shape, self.x)


def _without_duplicates(lifted: list[_Lifted], nms_iou_thresh: float, width: int) -> list[_Lifted]:
    """`lifted` without those whose IoU with one of a higher score (of equals the earlier) is above `nms_iou_thresh`."""
    if not lifted:
        return lifted
    area = np.array([mask.area for mask in lifted])
    top, left = np.array([(mask.y, mask.x) for mask in lifted]).T
    height, columns = np.array([mask.inside.shape for mask in lifted]).T
    stays = np.ones(len(lifted), dtype=bool)
    pending = np.ones(len(lifted), dtype=bool)
    for k in sorted(range(len(lifted)), key=lambda k: (-lifted[k].score, k)):
        pending[k] = False
        if not stays[k]:
            continue
        offset = (left - left[k]) % width
        close = pending & (np.minimum(area, area[k]) > nms_iou_thresh * np.maximum(area, area[k]))
        close &= (top < top[k] + height[k]) & (top[k] < top + height)
        close &= (offset < columns[k]) | (offset + columns > width)
        for other in np.flatnonzero(close):
            both = _intersection(lifted[k], lifted[other], width)
            if both > nms_iou_thresh * (area[k] + area[other] - both):
                stays[other] = pending[other] = False
    return [mask for mask, kept in zip(lifted, stays, strict=True) if kept]


def _intersection(a: _Lifted, b: _Lifted, width: int) -> int:
    top, bottom = max(a.y, b.y), min(a.y + a.inside.shape[0], b.y + b.inside.shape[0])
    if top >= bottom:
        return 0
    pixels = 0
    start = (b.x - a.x) % width
    for left in (start, start - width):  # where b begins, in columns of a; round the ring too
        first, last = max(left, 0), min(left + b.inside.shape[1], a.inside.shape[1])
        if first < last:
            own = a.inside[top - a.y : bottom - a.y, first:last]
            other = b.inside[top - b.y : bottom - b.y, first - left : last - left]
            pixels += int(np.count_nonzero(own & other))
    return pixels


def _agreeing(
    left: ProjectedMasks, right: ProjectedMasks, width: int, merge_iou_thresh: float
) -> list[tuple[int, int]]:
    if not (len(left.masks) and len(right.masks)):
        return []
    one, two = left.window, right.window
    _, a, b = np.intersect1d(one.columns(width), two.columns(width), return_indices=True)
    top = max(one.y0, two.y0)
    bottom = min(one.y0 + one.height, two.y0 + two.height)
    if not len(a) or top >= bottom:
        return []
    left_rows, right_rows = slice(top - one.y0, bottom - one.y0), slice(top - two.y0, bottom - two.y0)
    left_planes, right_planes = left.masks.planes[:, left_rows][..., a], right.masks.planes[:, right_rows][..., b]
    if left.placement.rows is not None or right.placement.rows is not None:
        seen = left.placement.covered[left_rows][:, a] & right.placement.covered[right_rows][:, b]
        left_planes, right_planes = left_planes * seen, right_planes * seen
    shape = (len(left.masks) + 1, len(right.masks) + 1)
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
    return [(m, int(n)) for m, n in enumerate(best_right) if best_left[n] == m and iou[m, n] >= merge_iou_thresh]


def _root(group: np.ndarray, k: int) -> int:
    while group[k] != k:
        group[k] = group[group[k]]
        k = int(group[k])
    return k


def _union(group: np.ndarray, a: int, b: int) -> None:
    group[_root(group, b)] = _root(group, a)


def _assemble(parts: Sequence[tuple[int, int]], placed: Sequence[ProjectedMasks], width: int) -> _Lifted:
    """The union of some views' masks, in the smallest box round them."""
    pieces = []
    for index, k in parts:
        window, planes, row = placed[index].window, placed[index].masks.planes, placed[index].masks.table[k]
        x, y, w, h = (int(row[f"box_{side}"]) for side in "xywh")
        if w == 0:  # a foreign table without boxes
            x, y, w, h = 0, 0, window.width, window.height
        inside = planes[row["plane"], y : y + h].take(np.arange(x, x + w), axis=1, mode="wrap") == k + 1
        pieces.append((window.x0 + x, window.y0 + y, inside))
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
    iou, stability, point = _scores(parts, placed, width)
    return _Lifted(tight, (start + x) % width, top + y, iou, stability, point)


def _arc(intervals: Sequence[tuple[int, int]], width: int) -> tuple[int, int]:
    """The shortest arc of the ring that holds all intervals `(first column, length)`: its start and length."""
    held = np.zeros((1, width), dtype=bool)
    for x, length in intervals:
        for columns, _ in cyclic_columns(x, min(length, width), width):
            held[0, columns] = True
    start, _, length, _ = mask_box(held, cyclic=True)
    return start, length


def _scores(
    parts: Sequence[tuple[int, int]], placed: Sequence[ProjectedMasks], width: int
) -> tuple[float, float, tuple[float, float]]:
    rows = np.array([placed[view].masks.table[k] for view, k in parts])
    weight = rows["area"] / max(1, rows["area"].sum())
    largest = int(rows["area"].argmax())
    window = placed[parts[largest][0]].window
    point = ((rows["point_x"][largest] + window.x0) % width, rows["point_y"][largest] + window.y0)
    return float(rows["predicted_iou"] @ weight), float(rows["stability_score"] @ weight), point
