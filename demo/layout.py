"""The ground plan: a straight street along x, optionally crossed by another one, and the labels of the ground."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.classes import Class

F32 = NDArray[np.float32]
#: Width of a lane and of a parking strip, metres.
LANE, PARKING = 3.2, 2.25
#: The ids below belong to the segments of the ground.
FIRST_OBJECT_INSTANCE = 14
_ROAD, _SIDEWALK, _VERGE, _YARD = 1, 2, 6, 10  # first instance ids; all but the road have one per quadrant


@dataclass(frozen=True)
class RoadSide:
    """One side of the street: widths (metres) of its strips, ordered from the kerb outwards."""

    verge: float
    sidewalk: float
    yard: float
    parking: bool

    @property
    def building_line(self) -> float:
        """Distance of the facades from the kerb."""
        return self.verge + self.sidewalk + self.yard


@dataclass(frozen=True)
class CrossStreet:
    """A street along y that crosses at `x`; widths in metres."""

    x: float
    half_width: float
    sidewalk: float


@dataclass(frozen=True)
class Layout:
    """The ground plan.

    Attributes:
        lanes: lanes per direction; traffic keeps right.
        sides: the left side (y > 0) and the right side.
        crossing: the crossing street, if there is one.
        corner_radius: radius of the kerb at the crossing, metres.
        rails: whether the inner lanes have tram rails.
    """

    lanes: int
    sides: tuple[RoadSide, RoadSide]
    crossing: CrossStreet | None
    corner_radius: float
    rails: bool

    def kerb(self, side: int) -> float:
        """Returns the distance of a kerb from the centre line, metres."""
        return self.lanes * LANE + (PARKING if self.sides[side].parking else 0.3)

    def kerb_distances(self, x: F32, y: F32) -> tuple[F32, F32, F32]:
        """Returns signed distances of ground points from the kerbs, metres, negative on the road.

        Returns:
            The distances from the main street, the crossing street, and both (with rounded corners).
        """
        main = np.abs(y) - np.where(y > 0, np.float32(self.kerb(0)), np.float32(self.kerb(1)))
        if self.crossing is None:
            return main, np.full_like(main, 1e3), main
        across = np.abs(x - np.float32(self.crossing.x)) - np.float32(self.crossing.half_width)
        r = np.float32(self.corner_radius)
        corner = (main < r) & (across < r)
        rounded = r - np.hypot(np.where(corner, r - main, 0), np.where(corner, r - across, 0))
        return main, across, np.where(corner, rounded, np.minimum(main, across))

    def ground_labels(self, x: F32, y: F32) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
        """Returns the train ids and the instance ids of ground points, arrays of equal shape."""
        main, across, road_distance = self.kerb_distances(x, y)
        left = y > 0
        verge, sidewalk = (
            np.where(left, *(np.float32(getattr(side, strip)) for side in self.sides))
            for strip in ("verge", "sidewalk")
        )
        quadrant = np.where(left, np.uint16(0), np.uint16(1))
        beside_crossing = np.zeros(x.shape, bool)
        if self.crossing is not None:
            quadrant = quadrant + np.where(x > self.crossing.x, np.uint16(2), np.uint16(0))
            beside_crossing = across < self.crossing.sidewalk
        walk = ((main >= verge) & (main < verge + sidewalk)) | beside_crossing
        semantic = np.where(walk, np.uint8(Class.SIDEWALK), np.uint8(Class.TERRAIN))
        first = np.where(walk, np.uint16(_SIDEWALK), np.where(main < verge, np.uint16(_VERGE), np.uint16(_YARD)))
        instance = first + quadrant
        road = road_distance < 0
        semantic[road], instance[road] = Class.ROAD, _ROAD
        return semantic, instance


def draw_layout(rng: np.random.Generator) -> Layout:
    """Draws a random ground plan."""
    left, right = (
        RoadSide(
            verge=rng.uniform(1.3, 2.6) if rng.random() < 0.35 else 0.0,
            sidewalk=rng.uniform(1.8, 4.2),
            yard=rng.uniform(1.0, 6.0) if rng.random() < 0.45 else 0.0,
            parking=bool(rng.random() < 0.7),
        )
        for _ in range(2)
    )
    crossing = None
    if rng.random() < 0.65:
        x = float(rng.uniform(9, 38) * rng.choice([-1, 1]))
        crossing = CrossStreet(x, float(rng.uniform(3.0, 6.0)), float(rng.uniform(1.8, 3.2)))
    return Layout(
        lanes=1 if rng.random() < 0.6 else 2,
        sides=(left, right),
        crossing=crossing,
        corner_radius=float(rng.uniform(2.0, 4.5)),
        rails=bool(rng.random() < 0.28),
    )
