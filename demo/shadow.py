"""The sun's shadow map: for each ground cell, the distance along the sunlight to the uppermost solid.

Cells are fine near the camera and coarse far away. A point is in shadow if a solid is beyond it on the ray to the
sun; the results of four neighbouring cells are interpolated for a soft edge.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from demo.primitives import Primitives
from demo.raycast import MISS, ParallelPackets, cast_rays

F32 = NDArray[np.float32]
_SCALE = np.float32(11.0)  # metres at which a cell is four times as wide as at the camera
_REACH = np.float32(0.86)  # warped coordinate at the border of the map: 68 m from the camera
_TILE = 16


class ShadowMap:
    """A shadow map that is computed on first use and serves all rays of an image.

    Args:
        solids: the scene.
        eye: (3,) camera position.
        towards_sun: (3,) unit vector.
        resolution: cells along x; y has half as many.
    """

    def __init__(
        self, solids: Primitives, eye: NDArray[np.floating], towards_sun: NDArray[np.floating], resolution: int
    ) -> None:
        self._solids = solids
        self._eye = np.asarray(eye, np.float32)
        self._sun = np.asarray(towards_sun, np.float64)
        self._columns = resolution // _TILE * _TILE
        self._rows = max(resolution // 2 // _TILE, 1) * _TILE

    @cached_property
    def _occluder_distance(self) -> F32:
        """Distance along the sunlight from the ground to the uppermost solid, (rows, columns); -1 without solid."""
        gx = self._cell_coordinates(self._columns) + self._eye[0]
        gy = self._cell_coordinates(self._rows) + self._eye[1]
        x, y = np.meshgrid(gx, gy)
        r, c = self._rows // _TILE, self._columns // _TILE

        def tiles(a: F32) -> F32:
            return a.reshape(r, _TILE, c, _TILE).transpose(0, 2, 1, 3).reshape(r * c, -1)

        length = float((self._solids.centre[:, 2] + self._solids.half[:, 2]).max() / self._sun[2] + 5)
        packets = ParallelPackets(tiles(x), tiles(y), self._sun, length)
        hits = cast_rays(self._solids, packets, np.full(packets.shape, np.inf, np.float32), self._occluders())
        distance = np.where(hits.solid == MISS, np.float32(-1), np.float32(length) - hits.distance)
        return distance.reshape(r, c, _TILE, _TILE).transpose(0, 2, 1, 3).reshape(self._rows, self._columns)

    def _occluders(self) -> NDArray[np.intp]:
        """Returns the indices of the solids at least a third as wide as a cell at their distance."""
        centre, half, _ = self._solids.bounding_boxes()
        distance = np.hypot(centre[:, 0] - self._eye[0], centre[:, 1] - self._eye[1]) - half.max(1)
        return np.nonzero(2 * np.sort(half, 1)[:, 1] > self._cell_width(np.maximum(distance, 0)) / 3)[0]

    def _cell_width(self, distance: F32) -> F32:
        """Returns the width of a cell (metres) at a distance from the camera."""
        return np.float32(2 * _REACH / self._columns) * (_SCALE + distance) ** 2 / _SCALE

    def _cell_coordinates(self, count: int) -> F32:
        """Returns the coordinates (count,) of the cell centres of an axis, metres from the camera."""
        w = (2 * ((np.arange(count) + 0.5) / count) - 1) * _REACH
        return (_SCALE * w / (1 - np.abs(w))).astype(np.float32)

    def visibility(self, point: F32, normal: F32) -> F32:
        """Returns the share (n,) of sunlight, 0..1, at world points (3, n) with normals (3, n); 1 beyond the map."""
        distance = np.sqrt(((point[:2] - self._eye[:2, None]) ** 2).sum(0))
        bias = np.minimum(np.float32(0.03) + 2 * self._cell_width(distance), np.float32(0.8))
        height = point[2] + bias * normal[2]
        slope = (self._sun[:2] / self._sun[2]).astype(np.float32)
        position, outside = [], np.zeros(point.shape[1], bool)
        for axis, size in ((0, self._columns), (1, self._rows)):
            g = point[axis] + bias * normal[axis] - slope[axis] * height - self._eye[axis]
            w = g / (_SCALE + np.abs(g)) / _REACH
            outside |= np.abs(w) > 1
            position.append(np.clip((w * np.float32(0.5) + np.float32(0.5)) * size - np.float32(0.5), 0, size - 1.001))
        column, row = (p.astype(np.int32) for p in position)
        fx, fy = position[0] - column, position[1] - row
        occluder, index = self._occluder_distance.ravel(), row * self._columns + column
        threshold = height / np.float32(self._sun[2]) + np.float32(0.05)
        upper = (occluder[index] <= threshold) * (1 - fx) + (occluder[index + 1] <= threshold) * fx
        index += self._columns
        lower = (occluder[index] <= threshold) * (1 - fx) + (occluder[index + 1] <= threshold) * fx
        visibility: F32 = upper * (1 - fy) + lower * fy
        return np.where(outside, np.float32(1), visibility.astype(np.float32))
