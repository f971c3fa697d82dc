"""Rectangles on a panorama that is cyclic in x, and where a view's pixels lie on it.

This module moves pixels and counts columns; it never interprets them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """A rectangle of a cyclic panorama: columns `x0 .. x0+width-1` modulo the panorama's width."""

    y0: int
    x0: int
    height: int
    width: int

    def columns(self, panorama_width: int) -> np.ndarray:
        """The panorama's column of each of the window's columns: int64 `(width,)`."""
        return np.arange(self.x0, self.x0 + self.width) % panorama_width

    def extract(self, array: np.ndarray) -> np.ndarray:
        """The window of `array` `(..., H, W)`: `(..., height, width)`; a copy only across the seam."""
        rows = array[..., self.y0 : self.y0 + self.height, :]
        end = self.x0 + self.width
        if end <= array.shape[-1]:
            return rows[..., self.x0 : end]
        return np.take(rows, self.columns(array.shape[-1]), axis=-1)

    def extract_image(self, image: np.ndarray) -> np.ndarray:
        """The window of an image `(H, W, 3)`: `(height, width, 3)`, contiguous."""
        return np.ascontiguousarray(np.moveaxis(self.extract(np.moveaxis(image, -1, 0)), 0, -1))

    def scaled(self, stride: int) -> Window:
        """The same window on a grid that is `stride` times coarser; the origin and width must be multiples."""
        if self.x0 % stride or self.width % stride or self.y0 % stride:
            raise ValueError(f"{self} does not lie on a grid of stride {stride}")
        return Window(self.y0 // stride, self.x0 // stride, -(-self.height // stride), self.width // stride)

    def place(self, size: tuple[int, int], stride: int) -> Placement:
        """Where the window lies on the grid of `stride` of a panorama of `size` (H, W) pixels: as it is."""
        on_grid = self.scaled(stride)
        weight = _ring_weight(self, size[1], on_grid.width) * _row_weight(self, size[0], on_grid.height)[:, None]
        return Placement(on_grid, weight)


@dataclass(frozen=True)
class Placement:
    """A view on the panorama's grid at some stride: which rectangle holds it, and how its values get there.

    `weight` float32 `(h, w)` of `window`: the raised cosine of the distance to those edges of the view that lie
    inside the panorama, in 0..1 (ours), and exactly 0 where the view sees nothing. `rows` and `columns` float32
    `(h, w)` are the place in the view, in pixels with the first centre at 0.5; None if the view is the window itself.
    """

    window: Window
    weight: np.ndarray
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)
    """height and width of the view in pixels, where it is not the window itself"""

    @property
    def covered(self) -> np.ndarray:
        """Where the view sees the panorama: bool `(h, w)`."""
        return self.weight > 0

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """`values` of the view `(..., h', w')`, at any stride, as `(..., h, w)` on the window; bilinear."""
        if self.rows is None or self.columns is None:
            return values
        h, w = values.shape[-2:]
        y = np.clip(self.rows * np.float32(h / self.size[0]) - np.float32(0.5), 0, h - 1)
        x = np.clip(self.columns * np.float32(w / self.size[1]) - np.float32(0.5), 0, w - 1)
        top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
        below, right = np.minimum(top + 1, h - 1), np.minimum(left + 1, w - 1)
        y, x = (y - top).astype(np.float32), (x - left).astype(np.float32)
        upper = values[..., top, left] * (1 - x) + values[..., top, right] * x
        lower = values[..., below, left] * (1 - x) + values[..., below, right] * x
        placed: np.ndarray = upper * (1 - y) + lower * y
        return placed

    def nearest(self, labels: np.ndarray) -> np.ndarray:
        """`labels` of the view `(..., height, width)` at pixels on the window, 0 where the view sees nothing."""
        if self.rows is None or self.columns is None:
            return labels
        covered = self.covered
        y = np.where(covered, self.rows, 0).astype(np.int64)
        x = np.where(covered, self.columns, 0).astype(np.int64)
        return np.where(covered, labels[..., y, x], 0).astype(labels.dtype)


def _ring_weight(window: Window, panorama_width: int, columns: int) -> np.ndarray:
    if window.width >= panorama_width:  # once round the ring: no edge
        return np.ones(columns, dtype=np.float32)
    return raised_cosine((np.arange(columns) + 0.5) / columns)


def _row_weight(window: Window, panorama_height: int, rows: int) -> np.ndarray:
    place = (np.arange(rows) + 0.5) / rows
    top, bottom = window.y0 > 0, window.y0 + window.height < panorama_height
    if top and bottom:
        return raised_cosine(place)
    if not (top or bottom):
        return np.ones(rows, dtype=np.float32)
    return raised_cosine(place / 2 if top else (place + 1) / 2)


def raised_cosine(place: np.ndarray) -> np.ndarray:
    """0 at the edges 0 and 1, 1 in the middle: float32 of the same shape."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * place)).astype(np.float32)


@dataclass(frozen=True)
class CoverageTile:
    """A rectangle, rows `y0 .. y1-1` and columns `x0 .. x1-1`, that the same windows cover.

    `members` holds `(window index, first row, first column inside the window)`. Their order depends on the
    rectangle's place inside the windows only, never on the windows' numbers: sums over members do not change when the
    panorama is rolled.
    """

    y0: int
    y1: int
    x0: int
    x1: int
    members: tuple[tuple[int, int, int], ...]

    @property
    def rows(self) -> slice:
        return slice(self.y0, self.y1)

    @property
    def columns(self) -> slice:
        return slice(self.x0, self.x1)

    def of(self, y: int, x: int) -> tuple[slice, slice]:
        """This rectangle in the coordinates of a member that begins at row `y` and column `x` of its window."""
        return slice(y, y + self.y1 - self.y0), slice(x, x + self.x1 - self.x0)


def coverage_tiles(windows: Sequence[Window], height: int, width: int) -> tuple[CoverageTile, ...]:
    """The panorama (`height` x `width`, cyclic in x) cut into `Cell` at every window's edges."""
    xs = sorted({0, width} | {w.x0 % width for w in windows} | {(w.x0 + w.width) % width for w in windows})
    ys = sorted({0, height} | {w.y0 for w in windows} | {w.y0 + w.height for w in windows})
    result = []
    for (y0, y1), (x0, x1) in itertools.product(itertools.pairwise(ys), itertools.pairwise(xs)):
        members = []
        for index, window in enumerate(windows):
            row, column = y0 - window.y0, (x0 - window.x0) % width
            if 0 <= row < window.height and column < window.width:
                members.append((index, row, column))
        members.sort(key=lambda m: (m[2], windows[m[0]].width, m[1], windows[m[0]].height))
        result.append(CoverageTile(y0, y1, x0, x1, tuple(members)))
    return tuple(result)


def layers(windows: Sequence[Window], planes: np.ndarray, size: tuple[int, int], fill: int) -> np.ndarray:
    """What every window says of each pixel of a panorama of `size` (H, W).

    `planes` `(V, h, w)` are those of `windows`. The result is `(n, H, W)`, `n` the most windows that hold one
    pixel; where fewer do, the last ones are `fill`.
    """
    pieces = coverage_tiles(windows, *size)
    found = np.full((max(len(cell.members) for cell in pieces), *size), fill, dtype=planes.dtype)
    for cell in pieces:
        for layer, (view, y, x) in enumerate(cell.members):
            found[layer, cell.rows, cell.columns] = planes[view][cell.of(y, x)]
    return found


def cyclic_columns(x0: int, width: int, panorama_width: int) -> list[tuple[slice, slice]]:
    """`x0 .. x0+width-1` modulo the panorama's width as one or two pairs (panorama slice, own slice)."""
    x0 %= panorama_width
    first = min(width, panorama_width - x0)
    pairs = [(slice(x0, x0 + first), slice(0, first))]
    if first < width:
        pairs.append((slice(0, width - first), slice(first, width)))
    return pairs
