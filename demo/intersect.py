"""First hits of rays with the four shapes: the distance along the ray, or infinity.

Every function takes ray directions `e` and ray origins `o` relative to the solid's centre, each as
three float32 arrays or scalars that broadcast to the ray batch, and returns float32 of the batch's shape.
Directions have unit length. Discriminants are formed from cross products, which keeps thin, distant poles
exact in single precision.
"""

import numpy as np
from numpy.typing import NDArray

from demo.noise import fractal

F32 = NDArray[np.float32]
Ray = F32 | np.float32
Triple = tuple[Ray, Ray, Ray]
NEAREST = np.float32(0.25)
"""Hits closer than this (metres) are ignored: nothing sits inside the lens."""
INF = np.float32(np.inf)
_TINY = np.float32(1e-20)  # changes no direction but an exact zero, whose inverse would poison what it meets


def turned(v: Triple, yaw: float) -> Triple:
    """The vectors in a frame turned left by `yaw`."""
    if yaw == 0:
        return v
    c, s = np.float32(np.cos(yaw)), np.float32(np.sin(yaw))
    return c * v[0] + s * v[1], c * v[1] - s * v[0], v[2]


def _entry(enter: F32, leave: F32) -> F32:
    return np.where((enter < leave) & (enter > NEAREST), enter, INF)


def box(e: Triple, o: Triple, half: F32) -> F32:
    """Axis-aligned box in its own frame."""
    enter: F32 | None = None
    leave: F32 | None = None
    for axis in range(3):
        inverse = np.float32(1) / (e[axis] + _TINY)
        middle = -o[axis] * inverse
        reach = np.abs(inverse) * half[axis]
        enter = middle - reach if enter is None else np.maximum(enter, middle - reach)
        leave = middle + reach if leave is None else np.minimum(leave, middle + reach)
    assert enter is not None
    assert leave is not None
    return _entry(enter, leave)


def wedge(e: Triple, o: Triple, half: F32, taper: F32) -> F32:
    """A box whose x and y half extents shrink linearly from bottom to top, to `(1 - taper)` of
    themselves."""
    inverse = np.float32(1) / (e[2] + _TINY)
    middle, reach = -o[2] * inverse, np.abs(inverse) * half[2]
    enter, leave = middle - reach, middle + reach
    for axis in (0, 1):
        slope, limit = lean(half[axis], half[2], taper[axis])
        for sign in (np.float32(1), np.float32(-1)):
            speed = sign * e[axis] + slope * e[2]
            t = (limit - sign * o[axis] - slope * o[2]) / speed
            enter = np.maximum(enter, np.where(speed < 0, t, -INF))
            leave = np.minimum(leave, np.where(speed < 0, INF, t))
    return _entry(enter, leave)


def lean(half: F32, half_height: F32, taper: F32) -> tuple[F32, F32]:
    """`(slope, limit)` of a leaning side: inside is `|x| + slope * z <= limit`."""
    slope: F32 = half * taper / (2 * half_height)
    limit: F32 = half - half * taper * np.float32(0.5)
    return slope, limit


def ellipsoid(e: Triple, o: Triple, half: F32, rim: float = 0.0, seed: float = 0.0) -> F32:
    """Ellipsoid in its own frame; `rim` > 0 frays its outline like leaves (up to that share of the
    radius squared).

    The fraying depends on the point of closest approach, hence on the ray in the world alone, not on the
    camera.
    """
    ax, ay, az = 1 / half
    dx, dy, dz = e[0] * ax, e[1] * ay, e[2] * az
    qx, qy, qz = o[0] * ax, o[1] * ay, o[2] * az
    a = dx * dx + dy * dy + dz * dz
    b = dx * qx + dy * qy + dz * qz
    cx, cy, cz = dy * qz - dz * qy, dz * qx - dx * qz, dx * qy - dy * qx
    disc = a - (cx * cx + cy * cy + cz * cz)
    inside = disc > 0
    if rim > 0 and inside.any():
        closest = b / a
        mx, my, mz = qx - closest * dx, qy - closest * dy, qz - closest * dz
        leaf = fractal((mx + mz * np.float32(0.6)) * 14, (my - mz * np.float32(0.8)) * 14, seed)
        inside = disc > a * np.float32(rim) * np.clip(leaf * np.float32(0.55) + np.float32(0.4), 0, 1)
    t = (-b - np.sqrt(np.maximum(disc, 0))) / a
    return np.where(inside & (t > NEAREST), t, INF)


def capsule(e: Triple, o: Triple, half: F32, radius: float) -> F32:
    """Capsule around the segment from `-half` to `+half`."""
    length = np.float32(np.sqrt((half.astype(np.float64) ** 2).sum()))
    ux, uy, uz = half / max(length, np.float32(1e-6))
    r2 = np.float32(radius * radius)
    du, ou = e[0] * ux + e[1] * uy + e[2] * uz, o[0] * ux + o[1] * uy + o[2] * uz
    nx, ny, nz = e[1] * uz - e[2] * uy, e[2] * ux - e[0] * uz, e[0] * uy - e[1] * ux
    a = np.maximum(nx * nx + ny * ny + nz * nz, np.float32(1e-12))
    cross = nx * o[0] + ny * o[1] + nz * o[2]
    disc = r2 * a - cross * cross
    closest = e[0] * o[0] + e[1] * o[1] + e[2] * o[2] - ou * du
    t = (-closest - np.sqrt(np.maximum(disc, 0))) / a
    along = ou + t * du
    beyond = np.abs(along) > length
    if beyond.any():
        end = np.where(along > 0, length, -length)
        px, py, pz = o[0] - end * ux, o[1] - end * uy, o[2] - end * uz
        cx, cy, cz = e[1] * pz - e[2] * py, e[2] * px - e[0] * pz, e[0] * py - e[1] * px
        cap = r2 - (cx * cx + cy * cy + cz * cz)
        b = e[0] * px + e[1] * py + e[2] * pz
        t = np.where(beyond, -b - np.sqrt(np.maximum(cap, 0)), t)
        disc = np.where(beyond, cap, disc)
    return np.where((disc > 0) & (t > NEAREST), t, INF)
