"""Ray casting: the first solid that each ray hits.

Rays are grouped into packets, and conservative bounds rule out most solids for a whole packet at once. The result
never depends on the grouping. `PointPackets` hold rays with a common origin (a camera), `ParallelPackets` rays with a
common direction (the sun).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.intersect import Vectors, intersect_solid
from demo.primitives import Primitives

F32 = NDArray[np.float32]
#: Index of the solid of a ray that hits none.
MISS = -1
_MARGIN = 1e-3  # radians and metres added to every bound, far above single precision


@dataclass(frozen=True)
class Hits:
    """First hits of rays: `distance`, infinity without a hit, and `solid`, the index of the solid or `MISS`."""

    distance: F32
    solid: NDArray[np.int16]


def _wrap_angle(angle: NDArray[np.floating]) -> NDArray[np.floating]:
    """Returns the absolute value of angles after wrapping them to -pi..pi."""
    return np.abs((angle + np.pi) % (2 * np.pi) - np.pi)


class RayPackets(ABC):
    """`B` packets of `K` rays; `shape` is `(B, K)`."""

    shape: tuple[int, int]

    @abstractmethod
    def bound_solids(self, solids: Primitives) -> F32:
        """Stores bounds of all solids for `may_hit`.

        Returns:
            A lower bound (N,) of the distance at which any ray can hit each solid; infinity where surely none can.
        """

    @abstractmethod
    def may_hit(self, k: int) -> NDArray[np.bool_]:
        """Returns a mask (B,) of the packets that may hit solid `k` of those given to `bound_solids`."""

    @abstractmethod
    def local_rays(self, index: NDArray[np.intp], centre: F32) -> tuple[Vectors, Vectors]:
        """Returns directions and origins relative to `centre` of the packets in `index`."""


class PointPackets(RayPackets):
    """Rays with a common origin (3,); `directions` are (B, K, 3) float32 of unit length."""

    def __init__(self, directions: F32, origin: NDArray[np.floating]) -> None:
        self.shape = directions.shape[:2]
        self._origin = np.asarray(origin, np.float32)
        dx, dy, dz = (np.ascontiguousarray(directions[..., axis]) for axis in range(3))
        self._directions = (dx, dy, dz)
        flat = np.maximum(np.hypot(dx, dy), np.float32(1e-6))
        mx, my = (dx / flat).sum(1), (dy / flat).sum(1)
        length = np.hypot(mx, my)
        self._heading = (mx / np.maximum(length, 1e-6), my / np.maximum(length, 1e-6))
        cosine = np.clip((dx * self._heading[0][:, None] + dy * self._heading[1][:, None]) / flat, -1, 1).min(1)
        self._half_angle = np.arccos(cosine) + _MARGIN
        self._polar = self._half_angle > 1.0  # packets about the zenith or nadir may have any azimuth
        self._cos, self._sin = np.cos(self._half_angle), np.sin(self._half_angle)
        elevation = np.arctan2(dz, flat)
        self._low, self._high = elevation.min(1) - _MARGIN, elevation.max(1) + _MARGIN

    def _azimuth_range(self) -> tuple[float, float]:
        """Returns the mean azimuth of all packets and the largest deviation from it, at most pi."""
        mx, my = self._heading[0].mean(), self._heading[1].mean()
        middle = float(np.arctan2(my, mx))
        if self._polar.any() or np.hypot(mx, my) < 0.3:
            return middle, float(np.pi)
        azimuth = np.arctan2(self._heading[1], self._heading[0]) - middle
        return middle, float((_wrap_angle(azimuth) + self._half_angle).max())

    def bound_solids(self, solids: Primitives) -> F32:
        centre, half, yaw = solids.bounding_boxes()
        c, s = np.cos(yaw), np.sin(yaw)
        offset = centre - self._origin
        fx, fy = c * offset[:, 0] + s * offset[:, 1], c * offset[:, 1] - s * offset[:, 0]
        nearest = np.hypot(np.maximum(np.abs(fx) - half[:, 0], 0), np.maximum(np.abs(fy) - half[:, 1], 0))
        farthest = np.hypot(np.abs(fx) + half[:, 0], np.abs(fy) + half[:, 1])
        azimuth = np.arctan2(fy, fx)
        width = np.zeros(len(solids), np.float32)
        for i in (-1, 1):
            for j in (-1, 1):
                corner = np.arctan2(fy + j * half[:, 1], fx + i * half[:, 0]) - azimuth
                width = np.maximum(width, _wrap_angle(corner))
        self._around_origin = (nearest < 1e-3) | (width > 1.9)
        self._solid_cos, self._solid_sin = np.cos(width), np.sin(width)
        azimuth = azimuth + yaw
        self._solid_x, self._solid_y = np.cos(azimuth), np.sin(azimuth)
        top, bottom = offset[:, 2] + half[:, 2], offset[:, 2] - half[:, 2]
        self._top = np.arctan2(top, np.where(top > 0, nearest, farthest)).astype(np.float32)
        self._bottom = np.arctan2(bottom, np.where(bottom > 0, farthest, nearest)).astype(np.float32)
        middle, deviation = self._azimuth_range()
        beside = (_wrap_angle(azimuth - middle) > width + deviation) & ~self._around_origin
        outside = (self._top < self._low.min()) | (self._bottom > self._high.max()) | beside
        return np.where(outside, np.float32(np.inf), nearest - np.float32(_MARGIN)).astype(np.float32)

    def may_hit(self, k: int) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = (self._low < self._top[k]) & (self._high > self._bottom[k])
        if not self._around_origin[k]:
            cosine = self._heading[0] * self._solid_x[k] + self._heading[1] * self._solid_y[k]
            limit = self._cos * self._solid_cos[k] - self._sin * self._solid_sin[k]
            mask &= (cosine >= limit) | self._polar
        return mask

    def local_rays(self, index: NDArray[np.intp], centre: F32) -> tuple[Vectors, Vectors]:
        dx, dy, dz = self._directions
        o = self._origin - centre
        return (dx[index], dy[index], dz[index]), (o[0], o[1], o[2])


class ParallelPackets(RayPackets):
    """Rays against the unit vector `to_light` (3,) that end at ground points and begin `length` metres before them.

    The ground points `x`, `y` are (B, K); the light is above the horizon.
    """

    def __init__(self, x: F32, y: F32, to_light: NDArray[np.floating], length: float) -> None:
        self.shape = (x.shape[0], x.shape[1])
        light = np.asarray(to_light, np.float64)
        self._slope = (light[:2] / light[2]).astype(np.float32)
        self._rise = np.float32(light[2])
        self._length = np.float32(length)
        self._direction = tuple(np.float32(-v) for v in light)
        self._x = (x + np.float32(light[0] * length)).astype(np.float32)
        self._y = (y + np.float32(light[1] * length)).astype(np.float32)
        self._z = np.float32(light[2] * length)
        self._extent = (x.min(1) - _MARGIN, x.max(1) + _MARGIN, y.min(1) - _MARGIN, y.max(1) + _MARGIN)

    def bound_solids(self, solids: Primitives) -> F32:
        centre, half, yaw = solids.bounding_boxes()
        c, s = np.abs(np.cos(yaw)), np.abs(np.sin(yaw))
        hx, hy = c * half[:, 0] + s * half[:, 1], s * half[:, 0] + c * half[:, 1]
        low, high = centre[:, 2] - half[:, 2], centre[:, 2] + half[:, 2]
        box = []
        for axis, half_width in ((0, hx), (1, hy)):
            a, b = self._slope[axis] * low, self._slope[axis] * high
            box += [centre[:, axis] - half_width - np.maximum(a, b), centre[:, axis] + half_width - np.minimum(a, b)]
        self._shadow = tuple(box)
        x0, x1, y0, y1 = (f(e) for f, e in zip((np.min, np.max, np.min, np.max), self._extent, strict=True))
        outside = (box[0] > x1) | (box[1] < x0) | (box[2] > y1) | (box[3] < y0)
        bound = self._length - high / self._rise - np.float32(_MARGIN)
        return np.where(outside, np.float32(np.inf), bound).astype(np.float32)

    def may_hit(self, k: int) -> NDArray[np.bool_]:
        x0, x1, y0, y1 = self._extent
        left, right, low, high = self._shadow
        mask: NDArray[np.bool_] = (x1 > left[k]) & (x0 < right[k]) & (y1 > low[k]) & (y0 < high[k])
        return mask

    def local_rays(self, index: NDArray[np.intp], centre: F32) -> tuple[Vectors, Vectors]:
        dx, dy, dz = self._direction
        return (dx, dy, dz), (self._x[index] - centre[0], self._y[index] - centre[1], self._z - centre[2])


def cast_rays(solids: Primitives, packets: RayPackets, limit: F32, among: NDArray[np.intp] | None = None) -> Hits:
    """Finds the first hit of every ray.

    Solids are visited front to back. A packet skips a solid whose lower bound is beyond the hits of all its rays.

    Args:
        solids: the scene.
        packets: the rays.
        limit: (B, K) float32 distances beyond which hits do not count (the ground, or infinity).
        among: indices of the solids to test; all by default.

    Returns:
        Hits (B, K); the distance of a ray without hit is its limit.
    """
    distance = limit.copy()
    solid = np.full(packets.shape, MISS, np.int16)
    farthest = distance.max(1)
    bound = packets.bound_solids(solids)
    order = np.argsort(bound, kind="stable")
    possible = np.isfinite(bound)
    if among is not None:
        possible &= np.isin(np.arange(len(solids)), among)
    with np.errstate(all="ignore"):
        for k in order[possible[order]].tolist():
            index = np.nonzero(packets.may_hit(k) & (farthest > bound[k]))[0]
            if not len(index):
                continue
            t = intersect_solid(solids, k, *packets.local_rays(index, solids.centre[k]))
            closer = t < distance[index]
            if closer.any():
                minimum = np.where(closer, t, distance[index])
                distance[index] = minimum
                farthest[index] = minimum.max(1)
                solid[index] = np.where(closer, np.int16(k), solid[index])
    return Hits(distance, solid)
