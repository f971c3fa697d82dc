"""Agreement of masks with segments: best IoU of every segment, precision and recall of boundaries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.sam.data import Segments, Window
from pipeline.geometry.masks import MaskSet

#: Segments of at most this share of the window are not measured.
SMALLEST_SHARE = 0.001
#: Pixels below which a segment counts as small.
SMALL = 500
#: Tolerance of boundaries, pixels.
TOLERANCE = 2

Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class WindowScores:
    """Best IoU (S,) and area (S,) of each measured segment, boundary precision and recall, and number of masks."""

    best_iou: NDArray[np.float64]
    area: NDArray[np.int64]
    boundary: tuple[float, float]
    masks: int


def best_ious(masks: MaskSet, segments: Segments) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns the IoU of the best mask and the area of every segment above `SMALLEST_SHARE`, both (S,)."""
    count = int(segments.max()) + 1
    area = np.bincount(segments.ravel(), minlength=count)
    measured = np.flatnonzero(area > SMALLEST_SHARE * segments.size)
    if not len(masks):
        return np.zeros(len(measured)), area[measured]
    intersection = masks.histograms(segments, count)
    iou = intersection / (masks.table["area"][:, None] + area[None] - intersection)
    return iou.max(axis=0)[measured], area[measured]


def paste_masks(masks: MaskSet) -> Segments:
    """Pastes masks over each other, large ones first: the index of the topmost mask plus 1, 0 without mask."""
    canvas = np.zeros(masks.shape, np.int32)
    for k in np.argsort(-masks.table["area"], kind="stable"):
        canvas[masks.mask(int(k))] = k + 1
    return canvas


def label_edges(labels: NDArray[np.integer]) -> Bool:
    """Returns a mask (h, w) of pixels whose right or lower neighbour has another label."""
    edge = np.zeros(labels.shape, bool)
    edge[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    edge[:-1] |= labels[1:] != labels[:-1]
    return edge


def boundary_precision_recall(predicted: Bool, truth: Bool) -> tuple[float, float]:
    """Returns the shares of predicted and of true edge pixels within `TOLERANCE` of one of the other kind.

    A share is 1 if there are no such pixels, and 0 if there are none of the other kind.
    """
    return _share_within_tolerance(predicted, truth), _share_within_tolerance(truth, predicted)


def _share_within_tolerance(pixels: Bool, others: Bool) -> float:
    from scipy.ndimage import distance_transform_edt

    if not pixels.any():
        return 1.0
    if not others.any():
        return 0.0
    return float((distance_transform_edt(~others)[pixels] <= TOLERANCE).mean())


def score_window(masks: MaskSet, window: Window) -> WindowScores:
    """Scores the masks of a window against its segments."""
    iou, area = best_ious(masks, window.segments)
    boundary = boundary_precision_recall(label_edges(paste_masks(masks)), label_edges(window.segments))
    return WindowScores(iou, area, boundary, len(masks))


def summarize(scores: list[WindowScores]) -> dict[str, float]:
    """Returns means over all segments (IoU, also weighted by area and by size) and over windows (boundary, masks)."""
    iou = np.concatenate([s.best_iou for s in scores])
    area = np.concatenate([s.area for s in scores])
    precision, recall = np.mean([s.boundary for s in scores], axis=0)
    values = {
        "mean_iou": iou.mean(),
        "area_weighted_iou": (iou * area).sum() / area.sum(),
        "small": iou[area < SMALL].mean() if (area < SMALL).any() else np.nan,
        "large": iou[area >= SMALL].mean() if (area >= SMALL).any() else np.nan,
        "boundary_precision": precision,
        "boundary_recall": recall,
        "masks_per_window": np.mean([s.masks for s in scores]),
    }
    return {name: round(float(value), 3) for name, value in values.items()}
