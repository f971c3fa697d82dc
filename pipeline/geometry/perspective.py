"""Perspective views: images of a pinhole camera, rendered from a panorama (gnomonic projection) [O].

The panorama is equirectangular with square pixels and the horizon in its middle row: a full sphere if it is twice as
wide as high, else a band of it. Coordinates are relative to the view's column, so a panorama rolled by whole
columns gives the same views bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from pipeline.geometry.windows import Placement, Window, raised_cosine


@dataclass(frozen=True)
class Perspective:
    """A pinhole view of a panorama, `height` x `width` pixels.

    Attributes:
        column: panorama column whose left edge is in the middle of the view.
        pitch: elevation of the optical axis in degrees, up positive.
        fov: horizontal field of view in degrees, below 180.
    """

    column: int
    pitch: float
    fov: float
    height: int
    width: int

    def extract_image(self, image: np.ndarray) -> np.ndarray:
        """Returns the view of an image `(H, W, 3)` uint8 as `(height, width, 3)`; black beyond the panorama's rows."""
        positions = _panorama_positions(self.pitch, self.fov, (self.height, self.width), image.shape[:2])
        return _sample_bilinear(image, self.column, *positions)

    def place(self, size: tuple[int, int], stride: int) -> Placement:
        """Returns the view's placement on the grid of `stride` of a panorama of `size` (H, W) pixels.

        Raises `ValueError` if the column or the panorama's width is no multiple of `stride`, or the view has no pixel.
        """
        if self.column % stride or size[1] % stride:
            raise ValueError(f"{self} does not align with a grid of stride {stride}")
        relative = _placement(self.pitch, self.fov, (self.height, self.width), size, stride)
        x0 = (relative.window.x0 + self.column // stride) % (size[1] // stride)
        return replace(relative, window=replace(relative.window, x0=x0))


def _focal_length(fov: float, width: int) -> float:
    return width / 2 / np.tan(np.radians(fov) / 2)


@lru_cache(maxsize=64)
def _panorama_positions(
    pitch: float, fov: float, view_size: tuple[int, int], size: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the panorama row of each pixel of a view, and its column relative to the view's: float64 `(h, w)`."""
    height, width = view_size
    x = (np.arange(width) + 0.5 - width / 2) / _focal_length(fov, width)
    y = (height / 2 - np.arange(height) - 0.5)[:, None] / _focal_length(fov, width)
    sin, cos = np.sin(np.radians(pitch)), np.cos(np.radians(pitch))
    up, ahead = y * cos + sin, cos - y * sin
    longitude = np.arctan2(*np.broadcast_arrays(x, ahead))
    latitude = np.arctan2(up, np.hypot(x, ahead))
    pixel_angle = 2 * np.pi / size[1]
    return size[0] / 2 - latitude / pixel_angle - 0.5, longitude / pixel_angle - 0.5


def _sample_bilinear(image: np.ndarray, column: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    y = np.clip(rows, 0, height - 1)
    top, left = np.floor(y).astype(np.int64), np.floor(columns).astype(np.int64)
    fy, fx = (y - top)[..., None].astype(np.float32), (columns - left)[..., None].astype(np.float32)
    below = np.minimum(top + 1, height - 1)
    left += column
    x0, x1 = left % width, (left + 1) % width
    samples = (1 - fy) * ((1 - fx) * image[top, x0] + fx * image[top, x1])
    samples += fy * ((1 - fx) * image[below, x0] + fx * image[below, x1])
    samples[(rows < -0.5) | (rows > height - 0.5)] = 0
    result: np.ndarray = np.rint(samples).astype(np.uint8)
    return result


@lru_cache(maxsize=64)
def _placement(pitch: float, fov: float, view_size: tuple[int, int], size: tuple[int, int], stride: int) -> Placement:
    """Returns the placement of a view whose column is 0."""
    height, width = view_size
    grid_rows, grid_columns = -(-size[0] // stride), size[1] // stride
    start = -(grid_columns // 2)
    longitude = (np.arange(start, start + grid_columns) + 0.5) * (2 * np.pi / grid_columns)
    row = (np.arange(grid_rows) + 0.5) * size[0] / grid_rows
    latitude = (size[0] / 2 - row)[:, None] * (2 * np.pi / size[1])
    right = np.cos(latitude) * np.sin(longitude)
    up, ahead = np.sin(latitude) + 0 * right, np.cos(latitude) * np.cos(longitude)
    sin, cos = np.sin(np.radians(pitch)), np.cos(np.radians(pitch))
    up, ahead = up * cos - ahead * sin, up * sin + ahead * cos
    with np.errstate(divide="ignore", invalid="ignore"):
        x = width / 2 + _focal_length(fov, width) * right / ahead
        y = height / 2 - _focal_length(fov, width) * up / ahead
    covered = (ahead > 1e-9) & (x > 0) & (x < width) & (y > 0) & (y < height)
    rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
    if not len(rows):
        raise ValueError(f"a perspective view of pitch {pitch} shows no pixel of a panorama {size[0]} x {size[1]}")
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    x, y, covered = x[box], y[box], covered[box]
    x, y = np.where(covered, x, 0).astype(np.float32), np.where(covered, y, 0).astype(np.float32)
    weight = np.where(covered, np.maximum(raised_cosine(x / width) * raised_cosine(y / height), 1e-12), 0)
    window = Window(int(rows[0]), int(start + columns[0]), *covered.shape)
    return Placement(window, weight.astype(np.float32), y, x, view_size)
