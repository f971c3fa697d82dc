"""The sun's shadow map: how high above each ground cell, seen along the sunlight, the uppermost solid
reaches.

Cells are fine near the eye and coarse far away. A point is in shadow if, along the ray to the sun,
something solid lies beyond it; four neighbouring cells are blended for a soft edge.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from demo.primitives import Primitives
from demo.raycast import MISS, Beam, cast

F32 = NDArray[np.float32]
_SCALE = np.float32(11.0)  # metres at which a cell is four times as wide as at the eye
_REACH = np.float32(0.86)  # warped coordinate at the map's rim: 68 m from the eye
_TILE = 16


class ShadowMap:
    """Cast on first use; one map serves all rays of a picture.

    `eye` (3,) is the camera, `towards_sun` (3,) a unit vector, `resolution` the number of cells
    along x; half as many lie along y.
    """

    def __init__(
        self,
        solids: Primitives,
        eye: NDArray[np.floating],
        towards_sun: NDArray[np.floating],
        resolution: int,
    ) -> None:
        self._solids = solids
        self._eye = np.asarray(eye, np.float32)
        self._sun = np.asarray(towards_sun, np.float64)
        self._columns = resolution // _TILE * _TILE
        self._rows = max(resolution // 2 // _TILE, 1) * _TILE

    @cached_property
    def _rise(self) -> F32:
        """Distance along the sunlight from the ground to the uppermost solid, (rows, columns), -1 where
        there is none."""
        gx = self._unwarp((np.arange(self._columns) + 0.5) / self._columns) + self._eye[0]
        gy = self._unwarp((np.arange(self._rows) + 0.5) / self._rows) + self._eye[1]
        x, y = np.meshgrid(gx, gy)

        def tiles(a: F32) -> F32:
            r, c = self._rows // _TILE, self._columns // _TILE
            return a.reshape(r, _TILE, c, _TILE).transpose(0, 2, 1, 3).reshape(r * c, -1)

        length = float((self._solids.centre[:, 2] + self._solids.half[:, 2]).max() / self._sun[2] + 5)
        beam = Beam(tiles(x), tiles(y), self._sun, length)
        hits = cast(self._solids, beam, np.full(beam.shape, np.inf, np.float32), self._casters())
        rise = np.where(hits.solid == MISS, np.float32(-1), np.float32(length) - hits.distance)
        r, c = self._rows // _TILE, self._columns // _TILE
        return rise.reshape(r, c, _TILE, _TILE).transpose(0, 2, 1, 3).reshape(self._rows, self._columns)

    def _casters(self) -> NDArray[np.intp]:
        """Solids that are not lost between the cells: at least a third as wide as a cell where they stand."""
        centre, half, _ = self._solids.bounds()
        distance = np.hypot(centre[:, 0] - self._eye[0], centre[:, 1] - self._eye[1]) - half.max(1)
        return np.nonzero(2 * np.sort(half, 1)[:, 1] > self._cell(np.maximum(distance, 0)) / 3)[0]

    def _cell(self, distance: F32) -> F32:
        """Width of a cell (metres) at a distance from the eye."""
        return np.float32(2 * _REACH / self._columns) * (_SCALE + distance) ** 2 / _SCALE

    def _unwarp(self, share: NDArray[np.floating]) -> F32:
        w = (2 * share - 1) * _REACH
        return (_SCALE * w / (1 - np.abs(w))).astype(np.float32)

    def lit(self, point: F32, normal: F32) -> F32:
        """Share of sunlight (n,) in 0..1 that reaches world points (3, n) with normals (3, n); 1 beyond the map."""
        distance = np.sqrt(((point[:2] - self._eye[:2, None]) ** 2).sum(0))
        offset = np.minimum(np.float32(0.03) + 2 * self._cell(distance), np.float32(0.8))
        height = point[2] + offset * normal[2]
        rise = height / np.float32(self._sun[2])
        slope = (self._sun[:2] / self._sun[2]).astype(np.float32)
        position, outside = [], np.zeros(point.shape[1], bool)
        for axis, size in ((0, self._columns), (1, self._rows)):
            g = point[axis] + offset * normal[axis] - slope[axis] * height - self._eye[axis]
            w = g / (_SCALE + np.abs(g)) / _REACH
            outside |= np.abs(w) > 1
            position.append(np.clip((w * np.float32(0.5) + np.float32(0.5)) * size - np.float32(0.5), 0, size - 1.001))
        column, row = (p.astype(np.int32) for p in position)
        fx, fy = position[0] - column, position[1] - row
        flat, at = self._rise.ravel(), row * self._columns + column
        margin = rise + np.float32(0.05)
        upper = (flat[at] <= margin) * (1 - fx) + (flat[at + 1] <= margin) * fx
        at += self._columns
        lower = (flat[at] <= margin) * (1 - fx) + (flat[at + 1] <= margin) * fx
        lit: F32 = upper * (1 - fy) + lower * fy
        return np.where(outside, np.float32(1), lit.astype(np.float32))
