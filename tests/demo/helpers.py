"""Small scenes and slow reference implementations for the tests of the renderer."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from demo.camera import Equirect
from demo.domain import SOURCE
from demo.primitives import Primitives, Shape
from demo.render import Labels, render_labels
from demo.scene import Scene, draw_scene


@cache
def street(seed: int) -> Scene:
    """Returns a street of the source domain with the camera along x."""
    return draw_scene(np.random.default_rng(seed), SOURCE, 0.0)


@cache
def sphere_labels(seed: int, width: int) -> Labels:
    """Returns the labels of a street on the full sphere."""
    return render_labels(street(seed), Equirect(width))


def erp_pixel(rays: NDArray[np.floating], width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns row and column of directions (..., 3) in a full-sphere panorama of yaw 0."""
    azimuth = np.arctan2(rays[..., 1].astype(np.float64), rays[..., 0].astype(np.float64))
    polar = np.arccos(np.clip(rays[..., 2].astype(np.float64), -1, 1))
    column = np.floor((0.5 - azimuth / (2 * np.pi)) * width).astype(np.int64) % width
    row = np.minimum(np.floor(polar / (2 * np.pi) * width).astype(np.int64), width // 2 - 1)
    return row, column


def inside(solids: Primitives, k: int, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns whether world points (n, 3) are inside solid `k`, by the definition of its shape."""
    offset = points - solids.centre[k].astype(np.float64)
    half = solids.half[k].astype(np.float64)
    if solids.shape[k] == Shape.CAPSULE:
        along = np.clip((offset @ half) / (half @ half), -1, 1)
        gap = offset - along[:, None] * half
        return np.linalg.norm(gap, axis=1) < float(solids.taper[k, 0])
    c, s = np.cos(float(solids.yaw[k])), np.sin(float(solids.yaw[k]))
    x, y = c * offset[:, 0] + s * offset[:, 1], c * offset[:, 1] - s * offset[:, 0]
    z = offset[:, 2]
    if solids.shape[k] == Shape.ELLIPSOID:
        return (x / half[0]) ** 2 + (y / half[1]) ** 2 + (z / half[2]) ** 2 < 1
    level = (z + half[2]) / (2 * half[2])  # 0 at the bottom, 1 at the top
    width = half[0] * (1 - float(solids.taper[k, 0]) * level)
    depth = half[1] * (1 - float(solids.taper[k, 1]) * level)
    return (np.abs(x) < width) & (np.abs(y) < depth) & (np.abs(z) < half[2])
