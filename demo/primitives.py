"""The solids that a scene is made of, as one structure of arrays, and the list that scene builders append
to.

Four shapes, all closed and opaque: `BOX`, `WEDGE` (a box whose sides lean inwards: roofs, car cabins,
triangles), `ELLIPSOID` and `CAPSULE` (a cylinder with round ends). Knows nothing of cameras or colours
beyond carrying them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Vector = tuple[float, float, float]


class Shape(IntEnum):
    BOX = 0
    WEDGE = 1
    ELLIPSOID = 2
    CAPSULE = 3


class Material(IntEnum):
    """Which texture a primitive wears; the meaning of its `texture` parameters is documented there."""

    PLAIN = 0
    FACADE = 1
    ROOF = 2
    FOLIAGE = 3
    BARK = 4
    CAR_BODY = 5
    CAR_CABIN = 6
    COACH = 7
    CARGO = 8
    WHEEL = 9
    FENCE = 10
    MASONRY = 11
    SIGNAL = 12
    SIGN = 13
    CLOTH = 14
    HEDGE = 15


@dataclass(frozen=True)
class Primitives:
    """`N` solids. World frame, metres, radians.

    `shape, material` (N,) int8; `centre` (N, 3) float32; `half` (N, 3) float32: half extents in the
    solid's own frame, for a capsule the half axis vector in the *world* frame; `yaw` (N,) float32;
    `taper` (N, 2) float32: for a wedge the share of the half extent in x and y that is lost from bottom
    to top, for a capsule `(radius, 0)`; `semantic` (N,) uint8 train ids; `instance` (N,) uint16;
    `colour` (N, 3) float32 linear albedo 0..1; `texture` (N, 4) float32; `seed` (N,) float32 in
    0..100.
    """

    shape: NDArray[np.int8]
    material: NDArray[np.int8]
    centre: F32
    half: F32
    yaw: F32
    taper: F32
    semantic: NDArray[np.uint8]
    instance: NDArray[np.uint16]
    colour: F32
    texture: F32
    seed: F32

    def __len__(self) -> int:
        return len(self.shape)

    def bounds(self) -> tuple[F32, F32, F32]:
        """Upright bounding boxes: centre (N, 3), half extents (N, 3) in the frame turned by yaw (N,)."""
        capsule = (self.shape == Shape.CAPSULE)[:, None]
        half = np.where(capsule, np.abs(self.half) + self.taper[:, :1], self.half)
        return self.centre, half, np.where(capsule[:, 0], np.float32(0), self.yaw)


@dataclass(frozen=True)
class Pose:
    """A place on the ground (or `z` above it) and a heading: the frame in which an object is described."""

    x: float
    y: float
    z: float = 0.0
    yaw: float = 0.0

    def at(self, forward: float, left: float, up: float) -> Vector:
        """World coordinates of a point of the object's frame."""
        c, s = float(np.cos(self.yaw)), float(np.sin(self.yaw))
        return self.x + c * forward - s * left, self.y + s * forward + c * left, self.z + up

    def moved(self, forward: float, left: float, up: float = 0.0, turn: float = 0.0) -> "Pose":
        x, y, z = self.at(forward, left, up)
        return Pose(x, y, z, self.yaw + turn)


class Builder:
    """Collects primitives and hands out instance ids; `finish` freezes them into arrays."""

    def __init__(self, first_instance: int) -> None:
        self._next = first_instance
        self._rows: list[tuple[float, ...]] = []

    def instance(self) -> int:
        """A fresh instance id."""
        self._next += 1
        return self._next - 1

    def solid(
        self,
        shape: Shape,
        pose: Pose,
        offset: Vector,
        half: Vector,
        semantic: int,
        instance: int,
        colour: Sequence[float] | NDArray[np.floating],
        material: Material = Material.PLAIN,
        taper: tuple[float, float] = (0.0, 0.0),
        texture: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
        turn: float = 0.0,
    ) -> None:
        """Append a box, wedge or ellipsoid, its centre `offset` in the frame of `pose`, turned by
        `turn` more."""
        centre = pose.at(*offset)
        self._append(shape, material, centre, half, pose.yaw + turn, taper, semantic, instance, colour, texture)

    def capsule(
        self,
        pose: Pose,
        start: Vector,
        end: Vector,
        radius: float,
        semantic: int,
        instance: int,
        colour: Sequence[float] | NDArray[np.floating],
        material: Material = Material.PLAIN,
    ) -> None:
        """Append a capsule between two points of the frame of `pose`."""
        a, b = pose.at(*start), pose.at(*end)
        centre = ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, (a[2] + b[2]) / 2)
        half = ((b[0] - a[0]) / 2, (b[1] - a[1]) / 2, (b[2] - a[2]) / 2)
        self._append(Shape.CAPSULE, material, centre, half, 0.0, (radius, 0.0), semantic, instance, colour, (0.0,) * 4)

    def _append(
        self,
        shape: Shape,
        material: Material,
        centre: Vector,
        half: Vector,
        yaw: float,
        taper: tuple[float, float],
        semantic: int,
        instance: int,
        colour: Sequence[float] | NDArray[np.floating],
        texture: tuple[float, ...],
    ) -> None:
        seed = (len(self._rows) * 0.6180339887) % 1.0 * 100
        row = (shape, material, *centre, *half, yaw, *taper, semantic, instance, *colour, *texture, seed)
        self._rows.append(row)

    def finish(self) -> Primitives:
        """The collected primitives, in the order they were added."""
        if self._next > np.iinfo(np.uint16).max:
            raise ValueError(f"{self._next} instances do not fit into 16 bits")
        table = np.array(self._rows, np.float64).reshape(-1, 21)
        single = table.astype(np.float32)
        return Primitives(
            shape=table[:, 0].astype(np.int8),
            material=table[:, 1].astype(np.int8),
            centre=single[:, 2:5],
            half=single[:, 5:8],
            yaw=single[:, 8],
            taper=single[:, 9:11],
            semantic=table[:, 11].astype(np.uint8),
            instance=table[:, 12].astype(np.uint16),
            colour=single[:, 13:16],
            texture=single[:, 16:20],
            seed=single[:, 20],
        )
