"""Mask sets: many overlapping binary masks as a few label maps ("planes") and a table.

Masks that overlap lie on different planes. A plane holds `k + 1` in the pixels of mask `k` and 0 elsewhere:

    two masks        plane 0          plane 1
    1 1 1 .          1 1 1 .          . . . .
    1 # # 2    =     1 1 1 .    +     . 2 2 2        (#: pixels of both masks)
    . 2 2 2          . . . .          . 2 2 2

The form is lossless and small, and one pass over the planes gives the class histograms of all masks. A single mask is a
`Mask`, cropped to its box. Masks are on a view or on the whole panorama.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.core.errors import ImageError
from pipeline.geometry.windows import Window, cyclic_columns

MAX_MASKS = 65535  # a plane holds uint16 labels 1 .. MAX_MASKS

#: One row per mask, see `Mask`.
TABLE = np.dtype(
    [("plane", np.uint16), ("area", np.int64), ("predicted_iou", np.float32), ("stability_score", np.float32)]
    + [(f"box_{side}", np.int32) for side in "xywh"]
    + [("point_x", np.float32), ("point_y", np.float32)]
)


@dataclass(frozen=True)
class Mask:
    """One binary mask, cropped to a box.

    Attributes:
        crop: pixels of the box, bool `(h, w)`.
        x: first column of the box. On a panorama `x + w` may exceed the width: the mask crosses the seam.
        y: first row of the box.
        predicted_iou: quality in 0..1 as predicted by SAM, or NaN.
        stability_score: quality in 0..1 as measured by SAM, or NaN.
        point: prompt (x, y) in pixels, or NaN.
    """

    crop: np.ndarray
    x: int
    y: int
    predicted_iou: float = np.nan
    stability_score: float = np.nan
    point: tuple[float, float] = (np.nan, np.nan)

    @cached_property
    def area(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.crop))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """XYXY, the last column and row included."""
        height, width = self.crop.shape
        return self.x, self.y, self.x + width - 1, self.y + height - 1

    def trimmed(self, *, cyclic: bool = False) -> Mask:
        """Returns the mask in its smallest box, of size 0 if it is empty; see `mask_box`. The crop is a copy."""
        x, y, w, h = mask_box(self.crop, cyclic=cyclic)
        return replace(self, crop=Window(y, x, h, w).extract(self.crop).copy(), x=self.x + x, y=self.y + y)

    def dense(self, size: tuple[int, int]) -> np.ndarray:
        """Returns the mask on an image of `size` (H, W) that holds its box: bool `(H, W)`."""
        pixels = np.zeros(size, dtype=bool)
        height, width = self.crop.shape
        pixels[self.y : self.y + height, self.x : self.x + width] = self.crop
        return pixels


@dataclass(frozen=True)
class MaskSet:
    """Many overlapping masks of one image.

    Attributes:
        planes: uint16 `(P, H, W)`; mask `k` has the label `k + 1`.
        table: `(K,)` of dtype `TABLE`.
    """

    planes: np.ndarray
    table: np.ndarray

    def __post_init__(self) -> None:
        if self.planes.ndim != 3 or self.planes.dtype != np.uint16:
            raise ValueError(f"planes are {self.planes.dtype} {self.planes.shape}, expected uint16 (P, H, W)")
        if self.table.ndim != 1 or self.table.dtype != TABLE:
            raise ValueError(f"table is {self.table.dtype} {self.table.shape}, expected (K,) of masks.TABLE")

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.mask(k) for k in range(len(self)))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.planes.shape[1], self.planes.shape[2]

    def mask(self, k: int) -> np.ndarray:
        """Returns mask `k` as bool `(H, W)`."""
        return self.planes[self.table["plane"][k]] == k + 1

    def crop(self, k: int) -> Mask:
        """Returns mask `k` in its box."""
        row = self.table[k]
        x, y, w, h = (int(row[f"box_{side}"]) for side in "xywh")
        if w == 0:  # an empty mask, or the table of another program, which may have no boxes
            x, y, (h, w) = 0, 0, self.shape
        pixels = Window(y, x, h, w).extract(self.planes[row["plane"]]) == k + 1
        return Mask(pixels, x, y, row["predicted_iou"], row["stability_score"], (row["point_x"], row["point_y"]))

    def histograms(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        """Counts the pixels of every label in every mask in one pass over the planes: int64 `(K, num_classes)`.

        Labels `(H, W)` from `num_classes` on (ignore) are not counted. Labels and planes are constant over long parts
        of a row, so runs are counted and not pixels.
        """
        counts = np.zeros((len(self) + 1) * (num_classes + 1))
        flat_labels = labels.ravel()
        is_start = np.ones(flat_labels.size, dtype=bool)
        np.not_equal(flat_labels[1:], flat_labels[:-1], out=is_start[1:])
        planes = self.planes.reshape(len(self.planes), flat_labels.size)
        for plane in planes:
            is_start[1:] |= plane[1:] != plane[:-1]
        starts = np.flatnonzero(is_start)
        lengths = np.diff(starts, append=flat_labels.size)
        run_labels = np.minimum(flat_labels[starts], num_classes).astype(np.int64)
        for plane in planes:
            index = plane[starts] * np.int64(num_classes + 1) + run_labels
            counts += np.bincount(index, weights=lengths, minlength=counts.size)
        return counts.astype(np.int64).reshape(len(self) + 1, num_classes + 1)[1:, :num_classes]

    def select(self, keep: np.ndarray) -> MaskSet:
        """Returns the masks `keep` (bool `(K,)` or indices) as a new set, relabelled in that order."""
        indices = np.flatnonzero(keep) if keep.dtype == bool else keep
        relabel = np.zeros(len(self) + 1, dtype=np.uint16)
        relabel[indices + 1] = np.arange(1, len(indices) + 1)
        table = self.table[indices]
        planes = relabel[self.planes]
        used = np.unique(table["plane"])
        table["plane"] = np.searchsorted(used, table["plane"])
        return MaskSet(planes[used.astype(np.intp)], table)

    def filtered(self, min_area: int = 0, predicted_iou: float = 0.0, stability_score: float = 0.0) -> MaskSet:
        """Returns the masks of at least this area and quality; a quality that is unknown (NaN) passes."""
        keep = self.table["area"] >= min_area
        for name, lowest in (("predicted_iou", predicted_iou), ("stability_score", stability_score)):
            keep &= np.isnan(self.table[name]) | (self.table[name] >= np.float32(lowest))
        return self.select(keep)

    def covered(self) -> np.ndarray:
        """Returns the pixels in at least one mask: bool `(H, W)`."""
        return (self.planes != 0).any(axis=0)


def from_crops(masks: Iterable[Mask], height: int, width: int) -> MaskSet:
    """Returns masks of an image of `height` x `width` pixels as a set; boxes wrap around at `width`.

    Each mask is on the first plane where it overlaps no other. Of an iterator, one mask at a time is in memory. Raises
    `ImageError` if there are more than `MAX_MASKS` masks.
    """
    planes: list[np.ndarray] = []
    table: list[tuple[Any, ...]] = []
    for label, mask in enumerate(masks, start=1):
        if label > MAX_MASKS:
            remedy = "raise the smallest area or the quality thresholds of the mask generator"
            raise ImageError(f"found more than {MAX_MASKS} masks, expected at most as many; {remedy}")
        h, w = mask.crop.shape
        rows = slice(mask.y, mask.y + h)
        parts = [(rows, columns, mask.crop[:, part]) for columns, part in cyclic_columns(mask.x, w, width)]
        free = (k for k, p in enumerate(planes) if not any(p[y, x][pixels].any() for y, x, pixels in parts))
        index = next(free, len(planes))
        if index == len(planes):
            planes.append(np.zeros((height, width), dtype=np.uint16))
        for y, x, pixels in parts:
            planes[index][y, x][pixels] = label
        table.append((index, mask.area, mask.predicted_iou, mask.stability_score, mask.x, mask.y, w, h, *mask.point))
    stacked = np.stack(planes) if planes else np.zeros((0, height, width), dtype=np.uint16)
    return MaskSet(stacked, np.array(table, dtype=TABLE))


def from_masks(
    masks: Iterable[np.ndarray], height: int, width: int, *, cyclic: bool = False, **values: Sequence[Any]
) -> MaskSet:
    """Returns dense masks, each bool `(height, width)`, as a set; boxes may cross the seam if `cyclic`.

    `values` are further attributes of `Mask` by name, one value per mask. Raises `ValueError` if a mask has another
    shape, and `ImageError` as `from_crops` does.
    """

    def crops() -> Iterator[Mask]:
        for k, mask in enumerate(masks):
            if mask.shape != (height, width):
                raise ValueError(f"mask {k} is {mask.shape}, expected {(height, width)}")
            yield Mask(mask, 0, 0, **{name: column[k] for name, column in values.items()}).trimmed(cyclic=cyclic)

    return from_crops(crops(), height, width)


def mask_box(mask: np.ndarray, *, cyclic: bool = False) -> tuple[int, int, int, int]:
    """Returns the box of `mask` `(H, W)` as XYWH; `(0, 0, 0, 0)` if it is empty.

    With `cyclic` the box has the fewest columns modulo `W` that hold the mask, so `x + w` may exceed `W`.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return 0, 0, 0, 0
    columns = np.flatnonzero(mask.any(axis=0))
    x, w = int(columns[0]), int(columns[-1] - columns[0] + 1)
    if cyclic and len(columns) > 1:
        width = mask.shape[1]
        gaps = np.diff(columns, append=columns[0] + width)
        widest = int(np.argmax(gaps))
        if widest != len(columns) - 1:
            x = int(columns[widest + 1])
            w = width - int(gaps[widest]) + 1
    return x, int(rows[0]), w, int(rows[-1] - rows[0] + 1)
