"""Ray-solid intersection: the distance of the first hit along each ray, or infinity.

Every function takes ray directions `d` of unit length and ray origins `o` relative to the centre of the solid, each
as three float32 arrays or scalars that broadcast to the ray batch, and returns float32 of the batch's shape. The box,
the wedge and the ellipsoid expect both in the local frame of the solid. Discriminants are computed from cross
products, which keeps thin, distant poles exact in single precision.
"""

import numpy as np
from numpy.typing import NDArray

from demo.noise import fractal
from demo.primitives import Material, Primitives, Shape

F32 = NDArray[np.float32]
Ray = F32 | np.float32
Vectors = tuple[Ray, Ray, Ray]
#: Hits closer than this (metres) are ignored: no solid is inside the lens.
NEAREST = np.float32(0.25)
INF = np.float32(np.inf)
_FOLIAGE_FRAY = 0.7
_BOX, _WEDGE, _CAPSULE = Shape.BOX.value, Shape.WEDGE.value, Shape.CAPSULE.value  # plain integers compare faster
_FOLIAGE = Material.FOLIAGE.value
_TINY = np.float32(1e-20)  # avoids the inverse of an exact zero and changes no other direction


def intersect_solid(solids: Primitives, k: int, d: Vectors, o: Vectors) -> F32:
    """Intersects rays with solid `k`; `d` and `o` are in the world frame."""
    shape = int(solids.shape[k])
    half = solids.half[k]
    if shape == _CAPSULE:
        return intersect_capsule(d, o, half, float(solids.taper[k, 0]))
    yaw = float(solids.yaw[k])
    d, o = to_local_frame(d, yaw), to_local_frame(o, yaw)
    if shape == _BOX:
        return intersect_box(d, o, half)
    if shape == _WEDGE:
        return intersect_wedge(d, o, half, solids.taper[k])
    fray = _FOLIAGE_FRAY if int(solids.material[k]) == _FOLIAGE else 0.0
    return intersect_ellipsoid(d, o, half, fray, float(solids.seed[k]))


def to_local_frame(v: Vectors, yaw: float) -> Vectors:
    """Returns world vectors in the frame with heading `yaw`."""
    if yaw == 0:
        return v
    c, s = np.float32(np.cos(yaw)), np.float32(np.sin(yaw))
    return c * v[0] + s * v[1], c * v[1] - s * v[0], v[2]


def _entry_distance(entry: Ray, exit_: Ray) -> F32:
    return np.where((entry < exit_) & (entry > NEAREST), entry, INF)


def intersect_box(d: Vectors, o: Vectors, half: F32) -> F32:
    """Intersects rays with a box by the slab method."""
    entry: Ray = -INF
    exit_: Ray = INF
    for axis in range(3):
        inverse = np.float32(1) / (d[axis] + _TINY)
        middle = -o[axis] * inverse
        reach = np.abs(inverse) * half[axis]
        entry, exit_ = np.maximum(entry, middle - reach), np.minimum(exit_, middle + reach)
    return _entry_distance(entry, exit_)


def intersect_wedge(d: Vectors, o: Vectors, half: F32, taper: F32) -> F32:
    """Intersects rays with a box whose x and y extents shrink linearly to `1 - taper` of themselves at the top."""
    inverse = np.float32(1) / (d[2] + _TINY)
    middle, reach = -o[2] * inverse, np.abs(inverse) * half[2]
    entry, exit_ = middle - reach, middle + reach
    for axis in (0, 1):
        slope, limit = sloping_side(half[axis], half[2], taper[axis])
        for sign in (np.float32(1), np.float32(-1)):
            speed = sign * d[axis] + slope * d[2]
            t = (limit - sign * o[axis] - slope * o[2]) / speed
            entry = np.maximum(entry, np.where(speed < 0, t, -INF))
            exit_ = np.minimum(exit_, np.where(speed < 0, INF, t))
    return _entry_distance(entry, exit_)


def sloping_side(half: F32, half_height: F32, taper: F32) -> tuple[F32, F32]:
    """Returns `(slope, limit)` of the sides of a wedge; its inside is `|x| + slope * z <= limit`."""
    slope: F32 = half * taper / (2 * half_height)
    limit: F32 = half - half * taper * np.float32(0.5)
    return slope, limit


def intersect_ellipsoid(d: Vectors, o: Vectors, half: F32, fray: float = 0.0, seed: float = 0.0) -> F32:
    """Intersects rays with an ellipsoid whose outline may be frayed like foliage.

    The fraying depends on the point of closest approach, hence on the ray in the world and not on the camera.

    Args:
        d: directions.
        o: origins.
        half: (3,) semi-axes.
        fray: largest share of the squared radius that the outline loses; 0 for a smooth ellipsoid.
        seed: shifts the noise of the fraying.
    """
    ax, ay, az = 1 / half
    dx, dy, dz = d[0] * ax, d[1] * ay, d[2] * az
    qx, qy, qz = o[0] * ax, o[1] * ay, o[2] * az
    a = dx * dx + dy * dy + dz * dz
    b = dx * qx + dy * qy + dz * qz
    cx, cy, cz = dy * qz - dz * qy, dz * qx - dx * qz, dx * qy - dy * qx
    discriminant = a - (cx * cx + cy * cy + cz * cz)
    hit = discriminant > 0
    if fray > 0 and hit.any():
        closest = b / a
        mx, my, mz = qx - closest * dx, qy - closest * dy, qz - closest * dz
        leaf = fractal((mx + mz * np.float32(0.6)) * 14, (my - mz * np.float32(0.8)) * 14, seed)
        hit = discriminant > a * np.float32(fray) * np.clip(leaf * np.float32(0.55) + np.float32(0.4), 0, 1)
    t = (-b - np.sqrt(np.maximum(discriminant, 0))) / a
    return np.where(hit & (t > NEAREST), t, INF)


def intersect_capsule(d: Vectors, o: Vectors, half: F32, radius: float) -> F32:
    """Intersects rays with the capsule around the segment from `-half` to `+half` (3,), in the world frame."""
    length = np.float32(np.sqrt((half.astype(np.float64) ** 2).sum()))
    ux, uy, uz = half / max(length, np.float32(1e-6))
    r2 = np.float32(radius * radius)
    du, ou = d[0] * ux + d[1] * uy + d[2] * uz, o[0] * ux + o[1] * uy + o[2] * uz
    nx, ny, nz = d[1] * uz - d[2] * uy, d[2] * ux - d[0] * uz, d[0] * uy - d[1] * ux
    a = np.maximum(nx * nx + ny * ny + nz * nz, np.float32(1e-12))
    cross = nx * o[0] + ny * o[1] + nz * o[2]
    discriminant = r2 * a - cross * cross
    closest = d[0] * o[0] + d[1] * o[1] + d[2] * o[2] - ou * du
    t = (-closest - np.sqrt(np.maximum(discriminant, 0))) / a
    along = ou + t * du
    beyond = np.abs(along) > length
    if beyond.any():
        end = np.where(along > 0, length, -length)
        px, py, pz = o[0] - end * ux, o[1] - end * uy, o[2] - end * uz
        cx, cy, cz = d[1] * pz - d[2] * py, d[2] * px - d[0] * pz, d[0] * py - d[1] * px
        cap = r2 - (cx * cx + cy * cy + cz * cz)
        b = d[0] * px + d[1] * py + d[2] * pz
        t = np.where(beyond, -b - np.sqrt(np.maximum(cap, 0)), t)
        discriminant = np.where(beyond, cap, discriminant)
    return np.where((discriminant > 0) & (t > NEAREST), t, INF)
