"""How well masks match segments: best IoU of every segment, precision and recall of boundaries. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.sam.data import Segments, Window
from pipeline.geometry.masks import MaskSet

SMALLEST_SHARE = 0.001
"""Segments of at most this share of the window are not asked for."""
SMALL = 500
"""Pixels below which a segment counts as small."""
TOLERANCE = 2
"""Pixels by which a boundary may be off."""

Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Matches:
    """Of one window: `best_iou` (S,) and `area` (S,) in pixels of its segments, `boundary` precision and
    recall, and the number of `masks`."""

    best_iou: NDArray[np.float64]
    area: NDArray[np.int64]
    boundary: tuple[float, float]
    masks: int


def best_ious(masks: MaskSet, segments: Segments) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """IoU of the best mask of every segment above `SMALLEST_SHARE`, and the segments' areas; both (S,)."""
    count = int(segments.max()) + 1
    area = np.bincount(segments.ravel(), minlength=count)
    asked = np.flatnonzero(area > SMALLEST_SHARE * segments.size)
    if not len(masks):
        return np.zeros(len(asked)), area[asked]
    both = masks.histograms(segments, count)
    iou = both / (masks.table["area"][:, None] + area[None] - both)
    return iou.max(axis=0)[asked], area[asked]


def painted(masks: MaskSet) -> Segments:
    """Masks painted over each other, large ones first: the number of the topmost mask plus 1, 0 where there is none."""
    picture = np.zeros(masks.shape, np.int32)
    for k in np.argsort(-masks.table["area"], kind="stable"):
        picture[masks.mask(int(k))] = k + 1
    return picture


def edges(labels: NDArray[np.integer]) -> Bool:
    """Pixels (h, w) whose right or lower neighbour has another label."""
    edge = np.zeros(labels.shape, bool)
    edge[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    edge[:-1] |= labels[1:] != labels[:-1]
    return edge


def boundary_match(found: Bool, truth: Bool) -> tuple[float, float]:
    """Share of the found edge pixels within `TOLERANCE` of a true one, and of the true ones within it of a
    found one; 1 where there is nothing to be wrong about, 0 where the other side is empty."""
    return _near(found, truth), _near(truth, found)


def _near(pixels: Bool, others: Bool) -> float:
    from scipy.ndimage import distance_transform_edt

    if not pixels.any():
        return 1.0
    if not others.any():
        return 0.0
    return float((distance_transform_edt(~others)[pixels] <= TOLERANCE).mean())


def match(masks: MaskSet, window: Window) -> Matches:
    """Masks of a window against its segments."""
    iou, area = best_ious(masks, window.segments)
    return Matches(iou, area, boundary_match(edges(painted(masks)), edges(window.segments)), len(masks))


def summary(matches: list[Matches]) -> dict[str, float]:
    """Means over all segments (IoU, also weighted by area and by size), and over windows (boundary, masks)."""
    iou = np.concatenate([m.best_iou for m in matches])
    area = np.concatenate([m.area for m in matches])
    precision, recall = np.mean([m.boundary for m in matches], axis=0)
    values = {
        "mean_iou": iou.mean(),
        "area_weighted_iou": (iou * area).sum() / area.sum(),
        "small": iou[area < SMALL].mean() if (area < SMALL).any() else np.nan,
        "large": iou[area >= SMALL].mean() if (area >= SMALL).any() else np.nan,
        "boundary_precision": precision,
        "boundary_recall": recall,
        "masks_per_window": np.mean([m.masks for m in matches]),
    }
    return {name: round(float(value), 3) for name, value in values.items()}
