"""Geometry of solid hits: where on its solid a ray ended, and the surface normal there."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from demo.intersect import lean
from demo.primitives import Primitives, Shape

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Surface:
    """`n` hits; columns (n,) float32 unless said. Vectors and colours lie in rows, (3, n), which numpy
    handles fastest.

    `x, y, z` in the solid's own frame (from its centre), `half` (3, n) its half extents, `face`
    (int8) the axis 0, 1, 2 that a box's face looks along, `front` the sign of the local normal along it,
    `height` metres above the road, `detail` 1 where 5 cm are resolved, falling to 0 far away,
    `colour` (3, n), `texture` (4, n), `seed`.
    """

    x: F32
    y: F32
    z: F32
    half: F32
    face: NDArray[np.int8]
    front: F32
    height: F32
    detail: F32
    colour: F32
    texture: F32
    seed: F32

    def take(self, index: NDArray[np.intp]) -> "Surface":
        return Surface(**{f.name: np.take(getattr(self, f.name), index, axis=-1) for f in fields(self)})

    def across(self) -> F32:
        """Horizontal coordinate along the hit face from its edge, metres."""
        return np.where(self.face == 0, self.y + self.half[1], self.x + self.half[0])


def detail_at(distance: F32, pixel_angle: float) -> F32:
    """1 where a pixel covers less than 5 cm, falling with its footprint: fades fine texture before it
    aliases."""
    return np.minimum(np.float32(0.05 / pixel_angle) / np.maximum(distance, np.float32(0.1)), np.float32(1))


def describe(
    solids: Primitives, solid: NDArray[np.int16], point: F32, distance: F32, pixel_angle: float
) -> tuple[Surface, F32]:
    """The surface at world points `point` (3, n) on the solids of index `solid` (n,), and its unit
    normals (3, n) in the world frame."""
    table = np.concatenate(
        [
            solids.centre.T,
            solids.half.T,
            solids.colour.T,
            solids.texture.T,
            solids.taper.T,
            np.stack([np.cos(solids.yaw), np.sin(solids.yaw), solids.seed]),
        ]
    )
    columns = np.take(table, solid, axis=1)
    half, colour, texture, taper = columns[3:6], columns[6:9], columns[9:13], columns[13:15]
    c, s, seed = columns[15:]
    dx, dy, z = point - columns[:3]
    x, y = c * dx + s * dy, c * dy - s * dx
    shape = np.take(solids.shape, solid)
    nx, ny, nz = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    face = np.zeros(len(solid), np.int8)

    flat = np.nonzero(shape <= Shape.WEDGE)[0]
    if len(flat):
        h, t = half[:, flat], taper[:, flat]
        fx, fy, fz = x[flat], y[flat], z[flat]
        slope_x, limit_x = lean(h[0], h[2], t[0])
        slope_y, limit_y = lean(h[1], h[2], t[1])
        gap_x = (np.abs(fx) + slope_x * fz - limit_x) / np.sqrt(1 + slope_x * slope_x)
        gap_y = (np.abs(fy) + slope_y * fz - limit_y) / np.sqrt(1 + slope_y * slope_y)
        gap_z = np.abs(fz) - h[2]
        on_x, on_y = (gap_x >= gap_y) & (gap_x >= gap_z), (gap_y > gap_x) & (gap_y >= gap_z)
        on_z = ~(on_x | on_y)
        face[flat] = on_y + 2 * on_z
        nx[flat], ny[flat] = np.sign(fx) * on_x, np.sign(fy) * on_y
        nz[flat] = np.where(on_x, slope_x, np.where(on_y, slope_y, np.sign(fz)))

    bulged = np.nonzero(shape == Shape.ELLIPSOID)[0]
    if len(bulged):
        inner = np.stack([x[bulged], y[bulged], z[bulged]]) / half[:, bulged] ** 2
        nx[bulged], ny[bulged], nz[bulged] = inner
        size = np.abs(inner)
        face[bulged] = np.where(size[2] > np.maximum(size[0], size[1]), 2, size[1] > size[0])

    rods = np.nonzero(shape == Shape.CAPSULE)[0]
    if len(rods):
        ax, ay, az = half[:, rods]
        ox, oy, oz = dx[rods], dy[rods], z[rods]
        square = np.maximum(ax * ax + ay * ay + az * az, np.float32(1e-9))
        along = (ox * ax + oy * ay + oz * az) / square
        inside = np.clip(along, -1, 1)
        nx[rods], ny[rods], nz[rods] = ox - inside * ax, oy - inside * ay, oz - inside * az
        z[rods] = along * np.sqrt(square)

    scale = 1 / np.maximum(np.sqrt(nx * nx + ny * ny + nz * nz), np.float32(1e-9))
    surface = Surface(
        x=x,
        y=y,
        z=z,
        half=half,
        face=face,
        front=np.sign(np.where(face == 0, nx, np.where(face == 1, ny, nz))),
        height=point[2],
        detail=detail_at(distance, pixel_angle),
        colour=colour,
        texture=texture,
        seed=seed,
    )
    return surface, np.stack([c * nx - s * ny, s * nx + c * ny, nz]) * scale
