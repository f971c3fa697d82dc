"""Solid primitives as a structure of arrays, and the builders that collect them.

The four shapes are closed and opaque: box, wedge (a box whose sides slope inwards: roofs, car cabins, triangular
signs), ellipsoid and capsule (a cylinder with hemispherical ends).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Colour = Sequence[float] | NDArray[np.floating]
Vector = tuple[float, float, float]


class Shape(IntEnum):
    """Shape of a primitive."""

    BOX = 0
    WEDGE = 1
    ELLIPSOID = 2
    CAPSULE = 3


class Material(IntEnum):
    """Selects the texture of a primitive; `demo.materials` documents the `texture` parameters of each."""

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
    """`N` solids in the world frame, metres and radians.

    Attributes:
        shape: (N,) int8.
        material: (N,) int8.
        centre: (N, 3) float32.
        half: (N, 3) float32 half extents in the local frame; for a capsule the half axis vector in the world frame.
        yaw: (N,) float32.
        taper: (N, 2) float32. For a wedge, the share of the half extents in x and y that is lost from bottom to top;
            for a capsule, `(radius, 0)`.
        semantic: (N,) uint8 train ids.
        instance: (N,) uint16.
        colour: (N, 3) float32 linear albedo, 0..1.
        texture: (N, 4) float32 parameters of the material.
        seed: (N,) float32 in 0..100, shifts the noise of the texture.
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

    def bounding_boxes(self) -> tuple[F32, F32, F32]:
        """Returns upright bounding boxes: centres (N, 3), half extents (N, 3) in the frame of each yaw, yaws (N,)."""
        capsule = (self.shape == Shape.CAPSULE)[:, None]
        half = np.where(capsule, np.abs(self.half) + self.taper[:, :1], self.half)
        return self.centre, half, np.where(capsule[:, 0], np.float32(0), self.yaw)


@dataclass(frozen=True)
class Pose:
    """Position (metres) and heading (radians, counter-clockwise from +x) of an object's local frame."""

    x: float
    y: float
    z: float = 0.0
    yaw: float = 0.0

    def to_world(self, forward: float, left: float, up: float) -> Vector:
        """Returns the world coordinates of a point of the local frame."""
        c, s = float(np.cos(self.yaw)), float(np.sin(self.yaw))
        return self.x + c * forward - s * left, self.y + s * forward + c * left, self.z + up

    def moved(self, forward: float, left: float, up: float = 0.0) -> "Pose":
        """Returns the pose translated along the axes of its own frame."""
        return Pose(*self.to_world(forward, left, up), self.yaw)


@dataclass(frozen=True)
class ObjectBuilder:
    """Appends the primitives of one object to the rows of a `SceneBuilder`; coordinates are in the frame of `pose`."""

    rows: list[tuple[float, ...]]
    pose: Pose
    semantic: int
    instance: int

    def moved(self, forward: float, left: float) -> "ObjectBuilder":
        """Returns a builder of the same object with a translated frame."""
        return replace(self, pose=self.pose.moved(forward, left))

    def add_solid(
        self,
        shape: Shape,
        centre: Vector,
        half: Vector,
        colour: Colour,
        material: Material = Material.PLAIN,
        taper: tuple[float, float] = (0.0, 0.0),
        texture: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
        yaw: float = 0.0,
    ) -> None:
        """Appends a box, wedge or ellipsoid; the other arguments are those of `Primitives`, in the local frame."""
        world = self.pose.to_world(*centre)
        self._append(shape, material, world, half, self.pose.yaw + yaw, taper, colour, texture)

    def add_capsule(
        self, start: Vector, end: Vector, radius: float, colour: Colour, material: Material = Material.PLAIN
    ) -> None:
        """Appends a capsule between two points."""
        a, b = self.pose.to_world(*start), self.pose.to_world(*end)
        centre = ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, (a[2] + b[2]) / 2)
        half = ((b[0] - a[0]) / 2, (b[1] - a[1]) / 2, (b[2] - a[2]) / 2)
        self._append(Shape.CAPSULE, material, centre, half, 0.0, (radius, 0.0), colour, (0.0,) * 4)

    def _append(
        self,
        shape: Shape,
        material: Material,
        centre: Vector,
        half: Vector,
        yaw: float,
        taper: tuple[float, float],
        colour: Colour,
        texture: tuple[float, ...],
    ) -> None:
        seed = (len(self.rows) * 0.6180339887) % 1.0 * 100
        labels = (self.semantic, self.instance)
        self.rows.append((shape, material, *centre, *half, yaw, *taper, *labels, *colour, *texture, seed))


class SceneBuilder:
    """Collects the primitives of a scene and allocates instance ids, beginning with `first_instance`."""

    def __init__(self, first_instance: int) -> None:
        self._next_instance = first_instance
        self._rows: list[tuple[float, ...]] = []

    def new_object(self, pose: Pose, semantic: int) -> ObjectBuilder:
        """Returns the builder of an object of class `semantic` with a new instance id."""
        self._next_instance += 1
        return ObjectBuilder(self._rows, pose, semantic, self._next_instance - 1)

    def build(self) -> Primitives:
        """Returns the primitives in the order of their addition.

        Raises:
            ValueError: the instance ids do not fit into 16 bits.
        """
        if self._next_instance > np.iinfo(np.uint16).max:
            raise ValueError(f"found {self._next_instance} instance ids; expected ids that fit into 16 bits")
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
