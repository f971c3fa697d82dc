"""Mask sets: many overlapping binary masks as a few label maps ("layers") and a table.

Masks that overlap lie on different planes; a plane holds `k + 1` where mask `k` is and 0 elsewhere. The form is
lossless and small, and one pass over the planes gives the class histogram of all masks. Masks are on a view or on
the whole panorama; this module does not know which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.errors import ImageError
from pipeline.geometry.windows import cyclic_columns

#: A plane holds uint16 labels 1 .. MAX_MASKS.
MAX_MASKS = 65535

#: One row a mask. `box` is XYWH in pixels; on a panorama x + w may exceed the width (the mask crosses the seam).
#: `point` is the prompt (x, y) in pixels, NaN where the generator has none. Quality values a generator does not
#: have are NaN.
TABLE = np.dtype(
    [
        ("plane", np.uint16),
        ("area", np.int64),
        ("predicted_iou", np.float32),
        ("stability_score", np.float32),
        ("box_x", np.int32),
        ("box_y", np.int32),
        ("box_w", np.int32),
        ("box_h", np.int32),
        ("point_x", np.float32),
        ("point_y", np.float32),
    ]
)


@dataclass(frozen=True)
class MaskSet:
    """`planes` uint16 `(P, H, W)` and `table` `(K,)` of dtype `TABLE`; mask `k` has label `k+1`."""

    planes: np.ndarray
    table: np.ndarray

    def __post_init__(self) -> None:
        if self.planes.ndim != 3 or self.planes.dtype != np.uint16:
            raise ValueError(f"planes are {self.planes.dtype} {self.planes.shape}, expected uint16 (P, H, W)")
        if self.table.ndim != 1 or self.table.dtype != TABLE:
            raise ValueError(f"table is {self.table.dtype} {self.table.shape}, expected (K,) of masks.TABLE")

    def __len__(self) -> int:
        return len(self.table)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.planes.shape[1], self.planes.shape[2]

    def mask(self, k: int) -> np.ndarray:
        """Mask `k` as bool `(H, W)`."""
        if not len(self.planes):
            return np.zeros(self.shape, dtype=bool)
        return self.planes[self.table["plane"][k]] == k + 1

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.mask(k) for k in range(len(self)))

    def dense(self) -> np.ndarray:
        """All masks as bool `(K, H, W)`. For tests and small sets: memory is K·H·W bytes."""
        return np.stack(list(self)) if len(self) else np.zeros((0, *self.shape), dtype=bool)

    def histograms(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        """Pixels of every label in every mask: int64 `(K, num_classes)`; one pass over the planes.

        `labels` is `(H, W)` of integers; values from `num_classes` on (ignore) are not counted. Pixels are
        counted by the run: labels and planes are all constant over long pieces of a row.
        """
        counts = np.zeros((len(self) + 1) * (num_classes + 1))
        column = labels.ravel()
        begins = np.ones(column.size, dtype=bool)
        np.not_equal(column[1:], column[:-1], out=begins[1:])
        planes = self.planes.reshape(len(self.planes), column.size)
        for plane in planes:
            begins[1:] |= plane[1:] != plane[:-1]
        runs = np.flatnonzero(begins)
        lengths = np.diff(runs, append=column.size)
        own = np.minimum(column[runs], num_classes).astype(np.int64)
        for plane in planes:
            index = plane[runs] * np.int64(num_classes + 1) + own
            counts += np.bincount(index, weights=lengths, minlength=counts.size)
        return counts.astype(np.int64).reshape(len(self) + 1, num_classes + 1)[1:, :num_classes]

    def select(self, keep: np.ndarray) -> MaskSet:
        """The masks `keep` (bool `(K,)` or indices) as a set of their own, relabelled in that order."""
        indices = np.flatnonzero(keep) if keep.dtype == bool else keep
        relabel = np.zeros(len(self) + 1, dtype=np.uint16)
        relabel[indices + 1] = np.arange(1, len(indices) + 1)
        table = self.table[indices]
        planes = relabel[self.planes]
        used = np.unique(table["plane"])
        table["plane"] = np.searchsorted(used, table["plane"])
        return MaskSet(planes[used.astype(np.intp)], table)

    def filtered(self, min_area: int = 0, predicted_iou: float = 0.0, stability_score: float = 0.0) -> MaskSet:
        """The masks of at least this area and quality; a quality value that is not known (NaN) passes."""
        keep = self.table["area"] >= min_area
        for name, lowest in (("predicted_iou", predicted_iou), ("stability_score", stability_score)):
            keep &= np.isnan(self.table[name]) | (self.table[name] >= np.float32(lowest))
        return self.select(keep)

    def covered(self) -> np.ndarray:
        """Pixels in at least one mask: bool `(H, W)`."""
        return (self.planes != 0).any(axis=0)


def empty(height: int, width: int) -> MaskSet:
    """A set of no masks."""
    return MaskSet(np.zeros((0, height, width), dtype=np.uint16), np.zeros(0, dtype=TABLE))


class MaskSetBuilder:
    """Lays masks down one after the other, each on the first plane where it overlaps none.

    Columns wrap round at `width`. Memory is that of the planes and of one mask's box.
    """

    def __init__(self, height: int, width: int) -> None:
        self._shape = (height, width)
        self._planes: list[np.ndarray] = []
        self._rows: list[tuple[Any, ...]] = []

    def add(
        self,
        inside: np.ndarray,
        x: int = 0,
        y: int = 0,
        *,
        predicted_iou: float = np.nan,
        stability_score: float = np.nan,
        point: tuple[float, float] = (np.nan, np.nan),
    ) -> None:
        """One mask: `inside` bool `(h, w)`, its box with the left upper corner at column `x`, row `y`.

        Raises `ImageError` for more than `MAX_MASKS` masks.
        """
        label = len(self._rows) + 1
        if label > MAX_MASKS:
            raise ImageError(f"found more than {MAX_MASKS} masks, expected at most as many; raise the smallest area")
        height, width = inside.shape
        rows = slice(y, y + height)
        pieces = [(c, inside[:, own]) for c, own in cyclic_columns(x, width, self._shape[1])] if width else []
        free = (k for k, p in enumerate(self._planes) if not any(p[rows, c][part].any() for c, part in pieces))
        plane = next(free, len(self._planes))
        if plane == len(self._planes):
            self._planes.append(np.zeros(self._shape, dtype=np.uint16))
        for columns, part in pieces:
            self._planes[plane][rows, columns][part] = label
        area = int(np.count_nonzero(inside))
        self._rows.append((plane, area, predicted_iou, stability_score, x, y, width, height, *point))

    def build(self) -> MaskSet:
        """The set of all masks that were added."""
        planes = np.stack(self._planes) if self._planes else np.zeros((0, *self._shape), dtype=np.uint16)
        return MaskSet(planes, np.array(self._rows, dtype=TABLE))


def from_masks(
    masks: Iterable[np.ndarray],
    height: int,
    width: int,
    *,
    predicted_iou: Sequence[float] | None = None,
    stability_score: Sequence[float] | None = None,
    points: Sequence[tuple[float, float]] | None = None,
    cyclic: bool = False,
) -> MaskSet:
    """`masks` (each bool `(height, width)`) as a mask set.

    `cyclic` gives boxes of masks that cross the seam the short way round. Raises `ImageError` for more
    than `MAX_MASKS` masks, `ValueError` for a mask of another shape.
    """
    builder = MaskSetBuilder(height, width)
    for k, mask in enumerate(masks):
        if mask.shape != (height, width):
            raise ValueError(f"mask {k} is {mask.shape}, expected {(height, width)}")
        x, y, w, h = mask_box(mask, cyclic=cyclic)
        rows = mask[y : y + h]
        inside = (
            rows[:, x : x + w] if x + w <= width else np.concatenate([rows[:, x:], rows[:, : x + w - width]], axis=1)
        )
        builder.add(
            inside,
            x,
            y,
            predicted_iou=np.nan if predicted_iou is None else predicted_iou[k],
            stability_score=np.nan if stability_score is None else stability_score[k],
            point=(np.nan, np.nan) if points is None else points[k],
        )
    return builder.build()


def mask_box(mask: np.ndarray, *, cyclic: bool = False) -> tuple[int, int, int, int]:
    """The box of `mask` `(H, W)` as XYWH; `(0, 0, 0, 0)` if it is empty.

    With `cyclic` the box is the shortest arc of columns that holds the mask, so `x + w` may exceed `W`.
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
