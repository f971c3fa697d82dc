"""Follows rays into a scene: what each one meets, and what that is called. Knows no colours."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.classes import Class
from demo.raycast import MISS, Fan, Hits, cast
from demo.scene import Scene

F32 = NDArray[np.float32]
_FARTHEST = np.float32(600.0)  # metres; the ground beyond is hidden by haze and counts as sky


@dataclass(frozen=True)
class Traced:
    """Flat ray results (n,): direction (n, 3), distance (inf: sky), solid index or MISS, labels."""

    direction: F32
    hits: Hits
    semantic: NDArray[np.uint8]
    instance: NDArray[np.uint16]


def tiles(height: int, width: int, side: int) -> NDArray[np.intp]:
    """Indices of the pixels of square tiles, (tiles, side²); those at a ragged border are repeated."""
    rows = np.minimum(np.arange(-(-height // side) * side), height - 1).reshape(-1, 1, side, 1)
    columns = np.minimum(np.arange(-(-width // side) * side), width - 1).reshape(1, -1, 1, side)
    return (rows * width + columns).reshape(-1, side * side)


def trace(scene: Scene, rays: F32, bundles: NDArray[np.intp], among: NDArray[np.intp] | None = None) -> Traced:
    """Follow the rays (n, 3), bundled by the index array (B, K), which must name every ray."""
    bundled = rays[bundles]
    down = bundled[..., 2]
    ground = np.where(down < -1e-6, np.float32(-scene.eye[2]) / np.minimum(down, -1e-6), np.float32(np.inf))
    ground[ground > _FARTHEST] = np.inf
    hits = cast(scene.primitives, Fan(bundled, scene.eye), ground, among)
    distance, solid = np.empty(len(rays), np.float32), np.empty(len(rays), np.int16)
    distance[bundles], solid[bundles] = hits.distance, hits.solid
    semantic = np.full(len(rays), Class.SKY, np.uint8)
    instance = np.zeros(len(rays), np.uint16)
    floor = np.nonzero((solid == MISS) & np.isfinite(distance))[0]
    x, y = (rays[floor, axis] * distance[floor] + np.float32(scene.eye[axis]) for axis in (0, 1))
    semantic[floor], instance[floor] = scene.layout.segments(x, y)
    hit = np.nonzero(solid != MISS)[0]
    semantic[hit] = scene.primitives.semantic[solid[hit]]
    instance[hit] = scene.primitives.instance[solid[hit]]
    return Traced(rays, Hits(distance, solid), semantic, instance)
