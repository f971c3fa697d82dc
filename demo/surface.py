"""Surface geometry of ray hits: local coordinates, face and normal."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from demo.intersect import sloping_side
from demo.primitives import Primitives, Shape

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Surface:
    """Surface points of `n` hits, float32. Vectors are (3, n), the layout that numpy handles fastest.

    Attributes:
        x, y, z: (n,) coordinates in the local frame of the solid; on a capsule, `z` is along its axis.
        half: (3, n) half extents of the solid.
        face: (n,) int8 axis 0, 1, 2 along which the normal of the face points.
        front: (n,) sign of the local normal along that axis.
        height: (n,) metres above the road.
        detail: (n,) 1 where 5 cm are resolved, less where a pixel covers more.
        colour: (3, n) linear albedo of the solid.
        texture: (4, n) parameters of the material.
        seed: (n,) shift of the noise.
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
        """Returns the hits of these indices."""
        return Surface(**{f.name: np.take(getattr(self, f.name), index, axis=-1) for f in fields(self)})

    def face_coordinate(self) -> F32:
        """Returns the horizontal coordinate along the face of each hit, from its edge, metres."""
        return np.where(self.face == 0, self.y + self.half[1], self.x + self.half[0])


def detail_factor(distance: F32, pixel_angle: float) -> F32:
    """Returns 1 where a pixel covers less than 5 cm, less beyond, which fades fine texture before it aliases."""
    return np.minimum(np.float32(0.05 / pixel_angle) / np.maximum(distance, np.float32(0.1)), np.float32(1))


def compute_surface(
    solids: Primitives, solid: NDArray[np.int16], point: F32, distance: F32, pixel_angle: float
) -> tuple[Surface, F32]:
    """Computes the surface at hits.

    Args:
        solids: the scene.
        solid: (n,) index of the solid that each ray hits.
        point: (3, n) hits in world coordinates.
        distance: (n,) metres from the camera.
        pixel_angle: angle that a pixel subtends, radians.

    Returns:
        The surface and its unit normals (3, n) in the world frame.
    """
    vectors = (solids.centre, solids.half, solids.colour, solids.texture, solids.taper)
    scalars = np.stack([np.cos(solids.yaw), np.sin(solids.yaw), solids.seed])
    table = np.concatenate([*(vector.T for vector in vectors), scalars])
    columns = np.take(table, solid, axis=1)
    half, colour, texture, taper = columns[3:6], columns[6:9], columns[9:13], columns[13:15]
    c, s, seed = columns[15:]
    dx, dy, z = point - columns[:3]
    x, y = c * dx + s * dy, c * dy - s * dx
    shape = np.take(solids.shape, solid)
    nx, ny, nz = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    face = np.zeros(len(solid), np.int8)

    boxes = np.nonzero(shape <= Shape.WEDGE)[0]
    if len(boxes):
        h, t = half[:, boxes], taper[:, boxes]
        bx, by, bz = x[boxes], y[boxes], z[boxes]
        slope_x, limit_x = sloping_side(h[0], h[2], t[0])
        slope_y, limit_y = sloping_side(h[1], h[2], t[1])
        gap_x = (np.abs(bx) + slope_x * bz - limit_x) / np.sqrt(1 + slope_x * slope_x)
        gap_y = (np.abs(by) + slope_y * bz - limit_y) / np.sqrt(1 + slope_y * slope_y)
        gap_z = np.abs(bz) - h[2]
        on_x, on_y = (gap_x >= gap_y) & (gap_x >= gap_z), (gap_y > gap_x) & (gap_y >= gap_z)
        on_z = ~(on_x | on_y)
        face[boxes] = on_y + 2 * on_z
        nx[boxes], ny[boxes] = np.sign(bx) * on_x, np.sign(by) * on_y
        nz[boxes] = np.where(on_x, slope_x, np.where(on_y, slope_y, np.sign(bz)))

    ellipsoids = np.nonzero(shape == Shape.ELLIPSOID)[0]
    if len(ellipsoids):
        gradient = np.stack([x[ellipsoids], y[ellipsoids], z[ellipsoids]]) / half[:, ellipsoids] ** 2
        nx[ellipsoids], ny[ellipsoids], nz[ellipsoids] = gradient
        size = np.abs(gradient)
        face[ellipsoids] = np.where(size[2] > np.maximum(size[0], size[1]), 2, size[1] > size[0])

    capsules = np.nonzero(shape == Shape.CAPSULE)[0]
    if len(capsules):
        ax, ay, az = half[:, capsules]
        ox, oy, oz = dx[capsules], dy[capsules], z[capsules]
        square = np.maximum(ax * ax + ay * ay + az * az, np.float32(1e-9))
        along = (ox * ax + oy * ay + oz * az) / square
        axis = np.clip(along, -1, 1)
        nx[capsules], ny[capsules], nz[capsules] = ox - axis * ax, oy - axis * ay, oz - axis * az
        z[capsules] = along * np.sqrt(square)

    scale = 1 / np.maximum(np.sqrt(nx * nx + ny * ny + nz * nz), np.float32(1e-9))
    front = np.sign(np.where(face == 0, nx, np.where(face == 1, ny, nz)))
    detail = detail_factor(distance, pixel_angle)
    surface = Surface(x, y, z, half, face, front, point[2], detail, colour, texture, seed)
    return surface, np.stack([c * nx - s * ny, s * nx + c * ny, nz]) * scale
