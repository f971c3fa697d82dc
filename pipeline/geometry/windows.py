"""Rectangles on a panorama that is cyclic in x, and the positions of a view's pixels on it.

A window's columns are counted modulo the panorama's width W, so a window may cross the seam:

    column          0          x0+w-W            x0         W-1
                    +-------------+----------------+-----------+
    panorama        | second part |                | first part|     cyclic_columns(x0, w, W)
                    +-------------+----------------+-----------+
                                                   +-------------------------+
    window                                         | first part  second part |     extract
                                                   +-------------------------+
                                                   0                        w-1

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
        """Returns the panorama's column of each of the window's columns: int64 `(width,)`."""
        return np.arange(self.x0, self.x0 + self.width) % panorama_width

    def extract(self, array: np.ndarray) -> np.ndarray:
        """Returns the window of `array` `(..., H, W)` as `(..., height, width)`; a copy only across the seam."""
        rows = array[..., self.y0 : self.y0 + self.height, :]
        end = self.x0 + self.width
        if end <= array.shape[-1]:
            return rows[..., self.x0 : end]
        return np.take(rows, self.columns(array.shape[-1]), axis=-1)

    def extract_image(self, image: np.ndarray) -> np.ndarray:
        """Returns the window of an image `(H, W, 3)` as `(height, width, 3)`, contiguous."""
        return np.ascontiguousarray(np.moveaxis(self.extract(np.moveaxis(image, -1, 0)), 0, -1))

    def scaled(self, stride: int) -> Window:
        """Returns the window on a grid that is `stride` times coarser.

        Raises `ValueError` if the origin or the width is no multiple of `stride`.
        """
        if self.x0 % stride or self.width % stride or self.y0 % stride:
            raise ValueError(f"{self} does not align with a grid of stride {stride}")
        return Window(self.y0 // stride, self.x0 // stride, -(-self.height // stride), self.width // stride)

    def place(self, size: tuple[int, int], stride: int) -> Placement:
        """Returns the window's placement on the grid of `stride` of a panorama of `size` (H, W) pixels."""
        grid_window, has_edges = self.scaled(stride), self.width < size[1]  # the full circle has no edge
        rows = _edge_distance_weight(grid_window.height, self.y0 > 0, self.y0 + self.height < size[0])
        return Placement(grid_window, _edge_distance_weight(grid_window.width, has_edges, has_edges) * rows[:, None])


@dataclass(frozen=True)
class Placement:
    """A view on the panorama's grid at some stride.

    Attributes:
        window: bounding rectangle of the view, in grid cells.
        weight: float32 `(h, w)` of `window` in 0..1: raised cosine of the distance to those edges of the view that are
            inside the panorama [O]; exactly 0 where the view has no pixel.
        rows: float32 `(h, w)`, row in the view in pixels, the first centre at 0.5; None if the view is the window.
        columns: float32 `(h, w)`, column in the view, likewise.
        size: height and width of the view in pixels, if it is not the window.
    """

    window: Window
    weight: np.ndarray
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)

    @property
    def covered(self) -> np.ndarray:
        """Cells that the view covers: bool `(h, w)`."""
        return self.weight > 0

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """Returns `values` of the view `(..., h', w')`, at any stride, as `(..., h, w)` on the window; bilinear."""
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
        interpolated: np.ndarray = upper * (1 - y) + lower * y
        return interpolated

    def nearest(self, labels: np.ndarray) -> np.ndarray:
        """Returns `labels` of the view `(..., height, width)` at pixels on the window, 0 where it covers nothing."""
        if self.rows is None or self.columns is None:
            return labels
        covered = self.covered
        y = np.where(covered, self.rows, 0).astype(np.int64)
        x = np.where(covered, self.columns, 0).astype(np.int64)
        return np.where(covered, labels[..., y, x], 0).astype(labels.dtype)


def _edge_distance_weight(cells: int, has_first_edge: bool, has_last_edge: bool) -> np.ndarray:
    position = (np.arange(cells) + 0.5) / cells
    if has_first_edge and has_last_edge:
        return raised_cosine(position)
    if not (has_first_edge or has_last_edge):
        return np.ones(cells, dtype=np.float32)
    return raised_cosine(position / 2 if has_first_edge else (position + 1) / 2)


def raised_cosine(position: np.ndarray) -> np.ndarray:
    """Returns 0 at positions 0 and 1 (the edges) and 1 in the middle: float32 of the same shape."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * position)).astype(np.float32)


@dataclass(frozen=True)
class CoverageTile:
    """A rectangle of the panorama, `rows` and `columns`, that the same windows cover.

    Attributes:
        members: `(window index, rows, columns inside the window)` of each window. Their order depends on the
            rectangle's position inside the windows and not on the windows' indices, so sums over members do not change
            when the panorama is rolled.
    """

    rows: slice
    columns: slice
    members: tuple[tuple[int, slice, slice], ...]


def coverage_tiles(windows: Sequence[Window], height: int, width: int) -> tuple[CoverageTile, ...]:
    """Cuts a panorama of `height` x `width` at every window's edges into rectangles of equal coverage."""
    xs = sorted({0, width} | {w.x0 % width for w in windows} | {(w.x0 + w.width) % width for w in windows})
    ys = sorted({0, height} | {w.y0 for w in windows} | {w.y0 + w.height for w in windows})
    tiles = []
    for (y0, y1), (x0, x1) in itertools.product(itertools.pairwise(ys), itertools.pairwise(xs)):
        members = []
        for index, window in enumerate(windows):
            row, column = y0 - window.y0, (x0 - window.x0) % width
            if 0 <= row < window.height and column < window.width:
                members.append((index, slice(row, row + y1 - y0), slice(column, column + x1 - x0)))
        members.sort(key=lambda m: (m[2].start, windows[m[0]].width, m[1].start, windows[m[0]].height))
        tiles.append(CoverageTile(slice(y0, y1), slice(x0, x1), tuple(members)))
    return tuple(tiles)


def stack_windows(windows: Sequence[Window], planes: np.ndarray, size: tuple[int, int], fill: int) -> np.ndarray:
    """Stacks the windows' values `planes` `(V, h, w)` of each pixel of a panorama of `size` (H, W).

    Returns `(n, H, W)`, `n` the largest number of windows on one pixel; pixels that fewer cover end with `fill`.
    """
    tiles = coverage_tiles(windows, *size)
    layers = np.full((max(len(tile.members) for tile in tiles), *size), fill, dtype=planes.dtype)
    for tile in tiles:
        for layer, (window, rows, columns) in zip(layers, tile.members, strict=False):
            layer[tile.rows, tile.columns] = planes[window][rows, columns]
    return layers


def cyclic_columns(x0: int, width: int, panorama_width: int) -> list[tuple[slice, slice]]:
    """Returns `x0 .. x0+width-1` modulo the panorama's width as one or two pairs (panorama slice, window slice)."""
    x0 %= panorama_width
    first = min(width, panorama_width - x0)
    pairs = [(slice(x0, x0 + first), slice(0, first))]
    if first < width:
        pairs.append((slice(0, width - first), slice(first, width)))
    return pairs
