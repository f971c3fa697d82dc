"""Panoptic segments of a panorama: the ensemble's classes, and its masks as the instances of things.

Pure functions on arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.data.labels import LabelSpace
from pipeline.geometry.masks import MaskSet
from pipeline.geometry.windows import Window

#: Least share of a mask's pixels that are of its class, and of those pixels that no larger instance has, to be one [O].
MIN_SHARE = 0.5


@dataclass(frozen=True)
class Segment:
    """One segment of a panorama.

    Attributes:
        id: value of its pixels in the map of segments, from 1.
        category: its class.
        is_crowd: whether it holds what no mask separates into instances.
    """

    id: int
    category: int
    is_crowd: bool = False


def panoptic_segments(masks: MaskSet, label: np.ndarray, space: LabelSpace) -> tuple[np.ndarray, list[Segment]]:
    """Returns segments that do not overlap: a map of their ids, int32 `(H, W)`, 0 where ignored, and their list.

    `masks` are those of the panorama and `label`, uint8 `(H, W)`, the ensemble's; every pixel keeps its class there. A
    mask whose majority is a thing is an instance: of its pixels those of its class, the largest mask first. A mask that
    is mostly inside larger instances (a window of a car) is none. Pixels of a thing without an instance are one segment
    of their class with `is_crowd`, and every other class is one segment. A mask across the seam is one instance.
    """
    ids = np.zeros(label.shape, dtype=np.int32)
    segments: list[Segment] = []
    is_thing = np.array([name in space.things for name in space.classes])
    counts = masks.histograms(label, space.num_classes)
    if len(masks):
        winner, most = counts.argmax(axis=1), counts.max(axis=1)
        wanted = is_thing[winner] & (most > MIN_SHARE * masks.table["area"])
        for k in sorted(np.flatnonzero(wanted).tolist(), key=lambda k: -int(most[k])):
            mask, category = masks.crop(k), int(winner[k])
            window = Window(mask.y, mask.x, *mask.crop.shape)
            free = mask.crop & (window.extract(label) == category) & (window.extract(ids) == 0)
            if np.count_nonzero(free) > MIN_SHARE * most[k]:
                segments.append(Segment(len(segments) + 1, category))
                rows, columns = np.nonzero(free)
                ids[rows + mask.y, (columns + mask.x) % label.shape[1]] = segments[-1].id
    for category in range(space.num_classes):
        rest = (label == category) & (ids == 0)
        if rest.any():
            segments.append(Segment(len(segments) + 1, category, bool(is_thing[category])))
            ids[rest] = segments[-1].id
    return ids, segments
