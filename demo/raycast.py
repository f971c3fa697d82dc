"""Which solid does each ray hit first? Rays travel in small bundles so that most solids are ruled out at
once.

Two kinds of bundles: `Fan` (all rays start at one point: a camera) and `Beam` (all rays are parallel:
the sun). Each rules solids out by conservative bounds, so the answer never depends on how rays were
bundled.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo import intersect
from demo.intersect import Triple
from demo.primitives import Material, Primitives, Shape

F32 = NDArray[np.float32]
LEAF_RIM = 0.7
MISS = -1
_BOX, _WEDGE, _CAPSULE = Shape.BOX.value, Shape.WEDGE.value, Shape.CAPSULE.value  # plain ints compare faster
_FOLIAGE = Material.FOLIAGE.value
_MARGIN = 1e-3  # radians and metres added to every bound, far above single precision


@dataclass(frozen=True)
class Hits:
    """Of every ray: distance (float32, inf where nothing was hit) and index of the solid (int16,
    `MISS`)."""

    distance: F32
    solid: NDArray[np.int16]


class Bundles(ABC):
    """`B` bundles of `K` rays; subclasses know where the rays start and which bundles a solid can
    touch."""

    shape: tuple[int, int]

    @abstractmethod
    def reach(self, solids: Primitives) -> F32:
        """A lower bound (N,) of the distance at which any ray can meet each solid; inf where surely none
        can."""

    @abstractmethod
    def touched(self, k: int) -> NDArray[np.bool_]:
        """Mask (B,) of the bundles that may hit solid `k` of those given to `reach`."""

    @abstractmethod
    def rays(self, index: NDArray[np.intp], centre: F32) -> tuple[Triple, Triple]:
        """Directions and origins relative to `centre` of the bundles in `index`."""


class Fan(Bundles):
    """Rays from one point; `directions` (B, K, 3) float32 of unit length, `origin` (3,) float."""

    def __init__(self, directions: F32, origin: NDArray[np.floating]) -> None:
        self.shape = directions.shape[:2]
        self._origin = np.asarray(origin, np.float32)
        dx, dy, dz = (np.ascontiguousarray(directions[..., axis]) for axis in range(3))
        self._directions = (dx, dy, dz)
        flat = np.maximum(np.hypot(dx, dy), np.float32(1e-6))
        mx, my = (dx / flat).sum(1), (dy / flat).sum(1)
        length = np.hypot(mx, my)
        self._middle = (mx / np.maximum(length, 1e-6), my / np.maximum(length, 1e-6))
        spread = np.clip((dx * self._middle[0][:, None] + dy * self._middle[1][:, None]) / flat, -1, 1).min(1)
        half = np.arccos(spread) + _MARGIN
        self._half = half
        self._around = half > 1.0  # bundles about the zenith or nadir look everywhere
        self._cos, self._sin = np.cos(half), np.sin(half)
        elevation = np.arctan2(dz, flat)
        self._low, self._high = elevation.min(1) - _MARGIN, elevation.max(1) + _MARGIN

    def _hull(self) -> tuple[float, float]:
        """Azimuth of the middle of all bundles and the largest azimuth from there; pi where they look
        everywhere."""
        mx, my = self._middle[0].mean(), self._middle[1].mean()
        middle = float(np.arctan2(my, mx))
        if self._around.any() or np.hypot(mx, my) < 0.3:
            return middle, float(np.pi)
        azimuth = np.arctan2(self._middle[1], self._middle[0]) - middle
        return middle, float((np.abs((azimuth + np.pi) % (2 * np.pi) - np.pi) + self._half).max())

    def reach(self, solids: Primitives) -> F32:
        centre, half, yaw = solids.bounds()
        c, s = np.cos(yaw), np.sin(yaw)
        offset = centre - self._origin
        fx, fy = c * offset[:, 0] + s * offset[:, 1], c * offset[:, 1] - s * offset[:, 0]
        gap = np.hypot(np.maximum(np.abs(fx) - half[:, 0], 0), np.maximum(np.abs(fy) - half[:, 1], 0))
        far = np.hypot(np.abs(fx) + half[:, 0], np.abs(fy) + half[:, 1])
        azimuth = np.arctan2(fy, fx)
        widest = np.zeros(len(solids), np.float32)
        for i in (-1, 1):
            for j in (-1, 1):
                corner = np.arctan2(fy + j * half[:, 1], fx + i * half[:, 0]) - azimuth
                widest = np.maximum(widest, np.abs((corner + np.pi) % (2 * np.pi) - np.pi))
        self._inside = (gap < 1e-3) | (widest > 1.9)
        self._solid_cos, self._solid_sin = np.cos(widest), np.sin(widest)
        azimuth = azimuth + yaw
        self._solid_x, self._solid_y = np.cos(azimuth), np.sin(azimuth)
        top, bottom = offset[:, 2] + half[:, 2], offset[:, 2] - half[:, 2]
        self._top = np.arctan2(top, np.where(top > 0, gap, far)).astype(np.float32)
        self._bottom = np.arctan2(bottom, np.where(bottom > 0, far, gap)).astype(np.float32)
        middle, widest_view = self._hull()
        aside = np.abs((azimuth - middle + np.pi) % (2 * np.pi) - np.pi) > widest + widest_view
        outside = (self._top < self._low.min()) | (self._bottom > self._high.max()) | (aside & ~self._inside)
        return np.where(outside, np.float32(np.inf), gap - np.float32(_MARGIN)).astype(np.float32)

    def touched(self, k: int) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = (self._low < self._top[k]) & (self._high > self._bottom[k])
        if not self._inside[k]:
            facing = self._middle[0] * self._solid_x[k] + self._middle[1] * self._solid_y[k]
            limit = self._cos * self._solid_cos[k] - self._sin * self._solid_sin[k]
            mask &= (facing >= limit) | self._around
        return mask

    def rays(self, index: NDArray[np.intp], centre: F32) -> tuple[Triple, Triple]:
        dx, dy, dz = self._directions
        o = self._origin - centre
        return (dx[index], dy[index], dz[index]), (o[0], o[1], o[2])


class Beam(Bundles):
    """Parallel rays falling along `-towards` onto the ground points `x, y` (B, K) from `length`
    metres before.

    `towards` (3,) is the unit vector to the light, above the horizon.
    """

    def __init__(self, x: F32, y: F32, towards: NDArray[np.floating], length: float) -> None:
        self.shape = (x.shape[0], x.shape[1])
        sun = np.asarray(towards, np.float64)
        self._slope = (sun[:2] / sun[2]).astype(np.float32)
        self._rise = np.float32(sun[2])
        self._length = np.float32(length)
        self._direction = tuple(np.float32(-v) for v in sun)
        self._x = (x + np.float32(sun[0] * length)).astype(np.float32)
        self._y = (y + np.float32(sun[1] * length)).astype(np.float32)
        self._z = np.float32(sun[2] * length)
        self._extent = (x.min(1) - _MARGIN, x.max(1) + _MARGIN, y.min(1) - _MARGIN, y.max(1) + _MARGIN)

    def reach(self, solids: Primitives) -> F32:
        centre, half, yaw = solids.bounds()
        c, s = np.abs(np.cos(yaw)), np.abs(np.sin(yaw))
        hx, hy = c * half[:, 0] + s * half[:, 1], s * half[:, 0] + c * half[:, 1]
        low, high = centre[:, 2] - half[:, 2], centre[:, 2] + half[:, 2]
        box = []
        for axis, reach in ((0, hx), (1, hy)):
            a, b = self._slope[axis] * low, self._slope[axis] * high
            box += [centre[:, axis] - reach - np.maximum(a, b), centre[:, axis] + reach - np.minimum(a, b)]
        self._shadow = tuple(box)
        x0, x1, y0, y1 = (f(e) for f, e in zip((np.min, np.max, np.min, np.max), self._extent, strict=True))
        outside = (box[0] > x1) | (box[1] < x0) | (box[2] > y1) | (box[3] < y0)
        near = self._length - high / self._rise - np.float32(_MARGIN)
        return np.where(outside, np.float32(np.inf), near).astype(np.float32)

    def touched(self, k: int) -> NDArray[np.bool_]:
        x0, x1, y0, y1 = self._extent
        left, right, low, high = self._shadow
        mask: NDArray[np.bool_] = (x1 > left[k]) & (x0 < right[k]) & (y1 > low[k]) & (y0 < high[k])
        return mask

    def rays(self, index: NDArray[np.intp], centre: F32) -> tuple[Triple, Triple]:
        dx, dy, dz = self._direction
        return (dx, dy, dz), (self._x[index] - centre[0], self._y[index] - centre[1], self._z - centre[2])


def _distance(solids: Primitives, k: int, e: Triple, o: Triple) -> F32:
    shape = int(solids.shape[k])
    half = solids.half[k]
    if shape == _CAPSULE:
        return intersect.capsule(e, o, half, float(solids.taper[k, 0]))
    yaw = float(solids.yaw[k])
    e, o = intersect.turned(e, yaw), intersect.turned(o, yaw)
    if shape == _BOX:
        return intersect.box(e, o, half)
    if shape == _WEDGE:
        return intersect.wedge(e, o, half, solids.taper[k])
    leafy = int(solids.material[k]) == _FOLIAGE
    return intersect.ellipsoid(e, o, half, LEAF_RIM if leafy else 0.0, float(solids.seed[k]))


def cast(solids: Primitives, bundles: Bundles, limit: F32, among: NDArray[np.intp] | None = None) -> Hits:
    """First hits of all rays, `(B, K)`, nearer than `limit` (B, K) float32 (the ground, or inf).

    `among` restricts the search to these indices. Solids are visited front to back, and a bundle whose
    rays have all been stopped nearer than a solid's lower bound skips it.
    """
    distance = limit.copy()
    solid = np.full(bundles.shape, MISS, np.int16)
    deepest = distance.max(1)
    reach = bundles.reach(solids)
    order = np.argsort(reach, kind="stable")
    possible = np.isfinite(reach)
    if among is not None:
        possible &= np.isin(np.arange(len(solids)), among)
    with np.errstate(all="ignore"):
        for k in order[possible[order]].tolist():
            index = np.nonzero(bundles.touched(k) & (deepest > reach[k]))[0]
            if not len(index):
                continue
            e, o = bundles.rays(index, solids.centre[k])
            t = _distance(solids, k, e, o)
            before = distance[index]
            nearer = t < before
            if nearer.any():
                now = np.where(nearer, t, before)
                distance[index] = now
                deepest[index] = now.max(1)
                solid[index] = np.where(nearer, np.int16(k), solid[index])
    return Hits(distance, solid)
