"""Panorama masks from view masks, and the boundary map `B_SAM` (docs/method.md 2). Pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import find_objects
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from pipeline.geometry.boundaries import label_boundary
from pipeline.geometry.masks import Mask, MaskSet, from_crops, mask_box
from pipeline.geometry.views import View
from pipeline.geometry.windows import Placement, Window, cyclic_columns


@dataclass(frozen=True)
class ProjectedMasks:
    """A view's masks on the placement's window: the rectangle of the panorama that holds the view, at pixels."""

    masks: MaskSet
    placement: Placement

    @property
    def window(self) -> Window:
        return self.placement.window


def project_to_panorama(masks: MaskSet, view: View, size: tuple[int, int]) -> ProjectedMasks:
    """Projects a view's masks to a panorama of `size` (H, W).

    Masks of a window stay as they are; others are sampled at the nearest pixel, and dropped if no pixel remains.
    """
    placement = view.place(size, 1)
    if placement.rows is None:
        return ProjectedMasks(masks, placement)
    points = _project_points(placement, masks.table)
    projected = {}
    for plane in placement.nearest(masks.planes):
        for k, box in enumerate(find_objects(plane, max_label=len(masks))):
            if box is not None:
                scores = masks.table["predicted_iou"][k], masks.table["stability_score"][k]
                projected[k] = Mask(plane[box] == k + 1, box[1].start, box[0].start, *scores, points[k])
    crops = (projected[k] for k in sorted(projected))
    return ProjectedMasks(from_crops(crops, *placement.weight.shape), placement)


def _project_points(placement: Placement, table: np.ndarray) -> list[tuple[float, float]]:
    """Returns the (x, y) of the window's pixels nearest to a view's prompts; NaN stays NaN."""
    assert placement.rows is not None
    assert placement.columns is not None
    ys, xs = np.nonzero(placement.covered)
    tree = cKDTree(np.column_stack([placement.columns[ys, xs], placement.rows[ys, xs]]))
    has_point = ~np.isnan(table["point_x"])
    _, nearest = tree.query(np.column_stack([table["point_x"][has_point], table["point_y"][has_point]]))
    x, y = table["point_x"].copy(), table["point_y"].copy()
    x[has_point], y[has_point] = xs[nearest], ys[nearest]
    return list(zip(x, y, strict=True))


def sam_boundary(views: Sequence[ProjectedMasks], size: tuple[int, int]) -> np.ndarray:
    """Returns `B_SAM`, the outlines of all view masks, as bool `(H, W)` (operator and source: [O]).

    The views' edges are no outlines: there the operator has no right or lower neighbour, and the next view covers them.
    """
    boundary = np.zeros(size, dtype=bool)
    for view in views:
        window, cyclic = view.window, view.window.width == size[1]
        outline = np.any(label_boundary(view.masks.planes, cyclic=cyclic), axis=0)
        if view.placement.rows is not None:
            outline &= ~label_boundary(view.placement.covered, cyclic=cyclic)
        rows = slice(window.y0, window.y0 + window.height)
        for columns, window_columns in cyclic_columns(window.x0, window.width, size[1]):
            boundary[rows, columns] |= outline[:, window_columns]
    return boundary


def merge_view_masks(
    views: Sequence[ProjectedMasks], size: tuple[int, int], merge_iou_thresh: float, nms_iou_thresh: float = 1.0
) -> MaskSet:
    """Merges view masks to masks of a panorama of `size` (H, W) [O].

    Two masks of overlapping views are merged if each is the other's best match on the pixels that both views cover and
    their IoU there is at least `merge_iou_thresh`. A panorama mask is the union of all masks that are merged directly
    or through others, also across the seam. Its scores are the area-weighted mean of theirs, its prompt is that of the
    largest. Of two panorama masks whose IoU is above `nms_iou_thresh`, that of the higher predicted IoU is kept.

    The masks are sorted, largest first; their order does not depend on where the panorama is cut open. Raises
    `ImageError` if there are more masks than a set can hold.
    """
    view_masks = [(view, k) for view in views for k in range(len(view.masks))]
    first = np.cumsum([0, *(len(view.masks) for view in views)])
    pairs = [
        (first[i] + a, first[j] + b)
        for i in range(len(views))
        for j in range(i + 1, len(views))
        for a, b in _matches(views[i], views[j], size[1], merge_iou_thresh)
    ]
    rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(pairs)), (rows, columns)), shape=(len(view_masks),) * 2)
    groups: dict[int, list[tuple[ProjectedMasks, int]]] = {}
    for view_mask, group in zip(view_masks, connected_components(graph, directed=False)[1], strict=True):
        groups.setdefault(int(group), []).append(view_mask)
    masks = sorted((_union(group, size[1]) for group in groups.values()), key=_order)
    if masks and nms_iou_thresh < 1:
        masks = _suppress_duplicates(masks, nms_iou_thresh, size[1])
    return from_crops(masks, *size)


def _score(mask: Mask) -> float:
    return 0.0 if np.isnan(mask.predicted_iou) else mask.predicted_iou


def _order(mask: Mask) -> tuple[float, ...]:
    """Sort key: largest first; ties by score, then by row and box, which no roll changes; last by column."""
    return (-mask.area, -_score(mask), mask.y, *mask.crop.shape, mask.x)


def _suppress_duplicates(masks: list[Mask], nms_iou_thresh: float, width: int) -> list[Mask]:
    """Drops masks whose IoU with one of a higher score (of equal scores the earlier) is above `nms_iou_thresh`."""
    area = np.array([mask.area for mask in masks])
    top, left = np.array([(mask.y, mask.x) for mask in masks]).T
    height, columns = np.array([mask.crop.shape for mask in masks]).T
    pending = np.ones(len(masks), dtype=bool)
    keep = ~pending
    for k in sorted(range(len(masks)), key=lambda k: (-_score(masks[k]), k)):
        if not pending[k]:
            continue
        pending[k], keep[k] = False, True
        offset = (left - left[k]) % width
        candidates = pending & (np.minimum(area, area[k]) > nms_iou_thresh * np.maximum(area, area[k]))
        candidates &= (top < top[k] + height[k]) & (top[k] < top + height)
        candidates &= (offset < columns[k]) | (offset + columns > width)
        for other in np.flatnonzero(candidates):
            intersection = _intersection(masks[k], masks[other], width)
            if intersection > nms_iou_thresh * (area[k] + area[other] - intersection):
                pending[other] = False
    return [mask for mask, is_kept in zip(masks, keep, strict=True) if is_kept]


def _intersection(a: Mask, b: Mask, width: int) -> int:
    """Returns the number of pixels that are in both masks of a panorama."""
    top, bottom = max(a.y, b.y), min(a.y + a.crop.shape[0], b.y + b.crop.shape[0])
    if top >= bottom:
        return 0
    pixels = 0
    start = (b.x - a.x) % width
    for offset in (start, start - width):  # columns of `a` at which `b` may begin
        first, end = max(offset, 0), min(offset + b.crop.shape[1], a.crop.shape[1])
        if first < end:
            a_part = a.crop[top - a.y : bottom - a.y, first:end]
            b_part = b.crop[top - b.y : bottom - b.y, first - offset : end - offset]
            pixels += int(np.count_nonzero(a_part & b_part))
    return pixels


def _matches(a: ProjectedMasks, b: ProjectedMasks, width: int, merge_iou_thresh: float) -> list[tuple[int, int]]:
    """Returns the pairs of masks of two views that are to be merged."""
    if not (len(a.masks) and len(b.masks)):
        return []
    _, a_columns, b_columns = np.intersect1d(a.window.columns(width), b.window.columns(width), return_indices=True)
    top = max(a.window.y0, b.window.y0)
    bottom = min(a.window.y0 + a.window.height, b.window.y0 + b.window.height)
    if not len(a_columns) or top >= bottom:
        return []
    a_rows, b_rows = (slice(top - view.window.y0, bottom - view.window.y0) for view in (a, b))
    a_planes, b_planes = a.masks.planes[:, a_rows][..., a_columns], b.masks.planes[:, b_rows][..., b_columns]
    if a.placement.rows is not None or b.placement.rows is not None:
        covered = a.placement.covered[a_rows][:, a_columns] & b.placement.covered[b_rows][:, b_columns]
        a_planes, b_planes = a_planes * covered, b_planes * covered
    shape = (len(a.masks) + 1, len(b.masks) + 1)
    shared = np.zeros(shape, dtype=np.int64)
    for a_plane in a_planes:
        for b_plane in b_planes:
            index = a_plane.astype(np.int64) * shape[1] + b_plane
            shared += np.bincount(index.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    # Every pair of planes counted the labels of one plane once per plane of the other view.
    a_area = shared.sum(axis=1)[1:] / len(b_planes)
    b_area = shared.sum(axis=0)[1:] / len(a_planes)
    shared = shared[1:, 1:]
    union = a_area[:, None] + b_area[None, :] - shared
    iou = np.where(shared > 0, shared / np.maximum(union, 1), 0.0)
    best_b, best_a = iou.argmax(axis=1), iou.argmax(axis=0)
    return [(m, int(n)) for m, n in enumerate(best_b) if best_a[n] == m and iou[m, n] >= merge_iou_thresh]


def _union(view_masks: Sequence[tuple[ProjectedMasks, int]], width: int) -> Mask:
    """Returns the union of view masks as a mask of the panorama, with their mean scores."""
    crops = [(view.window, view.masks.crop(k)) for view, k in view_masks]
    masks = [replace(mask, x=window.x0 + mask.x, y=window.y0 + mask.y) for window, mask in crops]
    covered = np.zeros((1, width), dtype=bool)
    for mask in masks:
        covered[0, np.arange(mask.x, mask.x + mask.crop.shape[1]) % width] = True
    x, _, columns, _ = mask_box(covered, cyclic=True)  # the shortest range that holds all boxes
    top = min(mask.y for mask in masks)
    bottom = max(mask.y + mask.crop.shape[0] for mask in masks)
    pixels = np.zeros((bottom - top, columns), dtype=bool)
    for mask in masks:
        # The range holds every mask without a break, unless it is the full circle.
        for target, source in cyclic_columns((mask.x - x) % width, mask.crop.shape[1], width):
            pixels[mask.y - top : mask.y - top + mask.crop.shape[0], target] |= mask.crop[:, source]
    rows = np.array([view.masks.table[k] for view, k in view_masks])
    weight = rows["area"] / max(1, rows["area"].sum())
    largest = int(rows["area"].argmax())
    window = view_masks[largest][0].window
    point = ((rows["point_x"][largest] + window.x0) % width, rows["point_y"][largest] + window.y0)
    scores = float(rows["predicted_iou"] @ weight), float(rows["stability_score"] @ weight)
    union = Mask(pixels, x, top, *scores, point).trimmed(cyclic=columns == width)
    return replace(union, x=union.x % width)
