"""Traces camera rays into a scene: distances, solids and labels, without colours."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.classes import Class
from demo.raycast import MISS, Hits, PointPackets, cast_rays
from demo.scene import Scene

F32 = NDArray[np.float32]
_FARTHEST = np.float32(600.0)  # metres; haze hides the ground beyond, which counts as sky


@dataclass(frozen=True)
class TracedRays:
    """`n` rays with unit vectors (n, 3), hits (n,) and labels (n,).

    A ray to the ground is a `MISS` of finite distance, a ray to the sky one of infinite distance.
    """

    direction: F32
    hits: Hits
    semantic: NDArray[np.uint8]
    instance: NDArray[np.uint16]


def tile_indices(height: int, width: int, side: int) -> NDArray[np.intp]:
    """Returns the flat pixel indices of square tiles, (tiles, side²); incomplete tiles repeat their last pixels."""
    rows = np.minimum(np.arange(-(-height // side) * side), height - 1).reshape(-1, 1, side, 1)
    columns = np.minimum(np.arange(-(-width // side) * side), width - 1).reshape(1, -1, 1, side)
    return (rows * width + columns).reshape(-1, side * side)


def trace_rays(
    scene: Scene, directions: F32, packets: NDArray[np.intp], among: NDArray[np.intp] | None = None
) -> TracedRays:
    """Traces rays from the camera of a scene.

    Args:
        scene: the scene.
        directions: (n, 3) unit vectors.
        packets: (B, K) indices that group the rays; every ray occurs.
        among: indices of the solids to test; all by default.
    """
    grouped = directions[packets]
    down = grouped[..., 2]
    ground = np.where(down < -1e-6, np.float32(-scene.eye[2]) / np.minimum(down, -1e-6), np.float32(np.inf))
    ground[ground > _FARTHEST] = np.inf
    hits = cast_rays(scene.primitives, PointPackets(grouped, scene.eye), ground, among)
    count = len(directions)
    distance, solid = np.empty(count, np.float32), np.empty(count, np.int16)
    distance[packets], solid[packets] = hits.distance, hits.solid
    semantic, instance = np.full(count, Class.SKY, np.uint8), np.zeros(count, np.uint16)
    floor = np.nonzero((solid == MISS) & np.isfinite(distance))[0]
    x, y = (directions[floor, axis] * distance[floor] + np.float32(scene.eye[axis]) for axis in (0, 1))
    semantic[floor], instance[floor] = scene.layout.ground_labels(x, y)
    body = np.nonzero(solid != MISS)[0]
    semantic[body] = scene.primitives.semantic[solid[body]]
    instance[body] = scene.primitives.instance[solid[body]]
    return TracedRays(directions, Hits(distance, solid), semantic, instance)
