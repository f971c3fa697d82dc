"""The ground plan: a straight street along x, often crossed by another, and what lies where on the ground
plane.

Answers "which class and which segment is this point of the ground" exactly; it draws nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.classes import Class

F32 = NDArray[np.float32]
LANE = 3.2
PARKING = 2.25
FIRST_FREE_INSTANCE = 14
_ROAD, _SIDEWALK, _VERGE, _YARD = 1, 2, 6, 10  # first instance ids; all but the road count four quadrants


@dataclass(frozen=True)
class Side:
    """Widths (metres) of the strips from the kerb outwards: planted verge, sidewalk, front yard."""

    verge: float
    sidewalk: float
    yard: float
    parking: bool

    @property
    def building_line(self) -> float:
        """Distance from kerb to facades."""
        return self.verge + self.sidewalk + self.yard


@dataclass(frozen=True)
class Crossing:
    """The street along y that crosses at `x`; widths in metres."""

    x: float
    half_width: float
    sidewalk: float


@dataclass(frozen=True)
class Layout:
    """`sides[0]` is the left one (y > 0); `lanes` counts per direction; traffic keeps right."""

    lanes: int
    sides: tuple[Side, Side]
    crossing: Crossing | None
    corner_radius: float
    rails: bool

    def kerb(self, side: int) -> float:
        """Half width of the road on a side, metres from the centre line."""
        return self.lanes * LANE + (PARKING if self.sides[side].parking else 0.3)

    def distances(self, x: F32, y: F32) -> tuple[F32, F32, F32]:
        """Metres outside the street, outside the crossing street, and outside either (rounded corners); <
        0 on it."""
        left = y > 0
        main = np.abs(y) - np.where(left, np.float32(self.kerb(0)), np.float32(self.kerb(1)))
        if self.crossing is None:
            return main, np.full_like(main, 1e3), main
        across = np.abs(x - np.float32(self.crossing.x)) - np.float32(self.crossing.half_width)
        r = np.float32(self.corner_radius)
        corner = (main < r) & (across < r)
        rounded = r - np.hypot(np.where(corner, r - main, 0), np.where(corner, r - across, 0))
        return main, across, np.where(corner, rounded, np.minimum(main, across))

    def segments(self, x: F32, y: F32) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
        """Train ids and instance ids of ground points; arrays of equal shape."""
        main, across, either = self.distances(x, y)
        left = y > 0
        pick = [np.where(left, *(np.float32(getattr(s, f)) for s in self.sides)) for f in ("verge", "sidewalk")]
        verge, edge = pick[0], pick[0] + pick[1]
        quadrant = np.where(left, np.uint16(0), np.uint16(1))
        beside = np.zeros(x.shape, bool)
        if self.crossing is not None:
            quadrant = quadrant + np.where(x > self.crossing.x, np.uint16(2), np.uint16(0))
            beside = across < self.crossing.sidewalk
        walk = ((main >= verge) & (main < edge)) | beside
        semantic = np.where(walk, np.uint8(Class.SIDEWALK), np.uint8(Class.TERRAIN))
        first = np.where(walk, np.uint16(_SIDEWALK), np.where(main < verge, np.uint16(_VERGE), np.uint16(_YARD)))
        instance = first + quadrant
        road = either < 0
        semantic[road], instance[road] = Class.ROAD, _ROAD
        return semantic, instance


def draw_layout(rng: np.random.Generator) -> Layout:
    """A random ground plan."""
    sides = []
    for _ in range(2):
        sides.append(
            Side(
                verge=rng.uniform(1.3, 2.6) if rng.random() < 0.35 else 0.0,
                sidewalk=rng.uniform(1.8, 4.2),
                yard=rng.uniform(1.0, 6.0) if rng.random() < 0.45 else 0.0,
                parking=bool(rng.random() < 0.7),
            )
        )
    crossing = None
    if rng.random() < 0.65:
        where = float(rng.uniform(9, 38) * rng.choice([-1, 1]))
        crossing = Crossing(where, float(rng.uniform(3.0, 6.0)), float(rng.uniform(1.8, 3.2)))
    return Layout(
        lanes=1 if rng.random() < 0.6 else 2,
        sides=(sides[0], sides[1]),
        crossing=crossing,
        corner_radius=float(rng.uniform(2.0, 4.5)),
        rails=bool(rng.random() < 0.28),
    )
