"""Puts the objects onto a ground plan: buildings behind the sidewalks, traffic in the lanes, people on
foot.

Nothing overlaps on the ground: every object claims its rectangle first. Hard cases are placed before all
others.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from demo import buildings, furniture, people, vehicles
from demo.domain import Domain
from demo.layout import LANE, PARKING, Layout
from demo.primitives import Builder, Pose

Rng = np.random.Generator
_EXTENT = 140.0  # half the length of the street, metres
_EDGE_STEP = 45.0  # degrees between window edges: 256 of 2048 columns


@dataclass
class Plots:
    """Rectangles of the ground that are taken: `(x, y, half_x, half_y)`."""

    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def claim(self, x: float, y: float, half_x: float, half_y: float) -> bool:
        """Take a rectangle unless it meets one already taken; says whether it was free."""
        for tx, ty, thx, thy in self.taken:
            if abs(x - tx) < half_x + thx and abs(y - ty) < half_y + thy:
                return False
        self.taken.append((x, y, half_x, half_y))
        return True


@dataclass
class Town:
    """What every placing function needs."""

    b: Builder
    rng: Rng
    layout: Layout
    domain: Domain
    plots: Plots

    def beside_crossing(self, x: float, margin: float) -> bool:
        """Whether `x` lies within `margin` metres of the crossing street."""
        c = self.layout.crossing
        return c is not None and abs(x - c.x) < c.half_width + margin


def populate(b: Builder, rng: Rng, layout: Layout, domain: Domain, eye: NDArray[np.float64], yaw_deg: float) -> None:
    """Append all objects of a street; see the module's description."""
    town = Town(b, rng, layout, domain, Plots([(float(eye[0]), float(eye[1]), 2.6, 1.3)]))
    _hard_cases(town, eye, yaw_deg)
    for side in (0, 1):
        _frontage(town, side)
        _parked(town, side)
        _kerbside(town, side)
        _pedestrians(town, side)
    _traffic(town)
    if layout.crossing is not None:
        _cross_street(town)
    _vistas(town)


def _hard_cases(town: Town, eye: NDArray[np.float64], yaw_deg: float) -> None:
    """Objects astride the panorama's seam and some window edges: near ones, on the road or on the
    sidewalk."""
    rng, layout = town.rng, town.layout
    for k in [4, *rng.choice([0, 1, 2, 3, 5, 6, 7], size=3, replace=False)]:
        azimuth = np.radians(yaw_deg + _EDGE_STEP * float(k))
        c, s = float(np.cos(azimuth)), float(np.sin(azimuth))
        side = 0 if s > 0 else 1
        kerb = layout.kerb(side) + rng.uniform(0.5, 1.2) + layout.sides[side].verge
        to_kerb = (kerb - eye[1] * (1 if side == 0 else -1)) / max(abs(s), 1e-6)
        if to_kerb > 16:
            r = rng.uniform(5.5, 13.0)
            _road_user(town, r * c, float(eye[1]) + r * s, int(rng.integers(4)))
        else:
            x, y = to_kerb * c, float(eye[1]) + to_kerb * s
            if town.beside_crossing(x, 1.0) or not town.plots.claim(x, y, 0.35, 0.35):
                continue
            if rng.random() < 0.6:
                people.pedestrian(town.b, rng, Pose(x, y, 0, rng.uniform(0, 2 * np.pi)))
            else:
                _pole(town, Pose(x, y, 0, np.pi if side == 0 else 0.0))


def _road_user(town: Town, x: float, y: float, kind: int) -> None:
    """Car (0, 1), bicycle with rider (2) or motorcycle with rider (3), heading along its half of the road."""
    rng = town.rng
    yaw = (np.pi if y > 0 else 0.0) + rng.uniform(-0.06, 0.06)
    half = (2.5, 1.05) if kind < 2 else (1.1, 0.5)
    if not town.plots.claim(x, y, *half):
        return
    pose = Pose(x, y, 0, yaw)
    if kind < 2:
        vehicles.car(town.b, rng, pose)
    elif kind == 2:
        vehicles.bicycle(town.b, rng, pose)
        people.rider(town.b, rng, pose)
    else:
        vehicles.motorcycle(town.b, rng, pose)
        people.rider(town.b, rng, pose, upright=True)


def _frontage(town: Town, side: int) -> None:
    """Buildings wall to wall or with gaps; gaps hold a fence, a wall or a hedge with trees behind."""
    rng, layout, b = town.rng, town.layout, town.b
    sign = 1 if side == 0 else -1
    line = layout.kerb(side) + layout.sides[side].building_line
    facing = np.pi if side == 0 else 0.0
    x = -_EXTENT + rng.uniform(0, 8)
    while x < _EXTENT:
        width = rng.uniform(8, 24)
        middle = x + width / 2
        if town.beside_crossing(middle, width / 2 + layout.crossing.sidewalk if layout.crossing else 0):
            x += 1.5
            continue
        if rng.random() < 0.74:
            depth = rng.uniform(4, 7)
            back = rng.uniform(0, 1.5) if rng.random() < 0.3 else 0.0
            pose = Pose(middle, sign * (line + back + depth), 0, facing)
            buildings.building(b, rng, pose, width / 2, depth, town.domain, detailed=abs(middle) < 45)
        else:
            _garden(town, middle, width, line, sign)
        x += width + (rng.uniform(2, 7) if rng.random() < 0.2 else 0.0)


def _garden(town: Town, middle: float, width: float, line: float, sign: int) -> None:
    b, rng = town.b, town.rng
    pose = Pose(middle, sign * (line + 0.4), 0, 0.0)
    kind = rng.random()
    if kind < 0.42:
        furniture.fence(b, rng, pose, width / 2)
    elif kind < 0.80:
        furniture.wall(b, rng, pose, width / 2)
    else:
        furniture.hedge(b, rng, pose, width / 2, town.domain)
    for _ in range(int(rng.integers(1, 5))):
        spot = Pose(middle + rng.uniform(-0.5, 0.5) * width, sign * (line + rng.uniform(2.5, 9)))
        furniture.tree(b, rng, spot, town.domain, scale=rng.uniform(0.9, 1.3))


def _parked(town: Town, side: int) -> None:
    rng, layout = town.rng, town.layout
    if not layout.sides[side].parking:
        return
    sign, y = (1 if side == 0 else -1), layout.kerb(side) - PARKING / 2
    share, x = rng.uniform(0.25, 0.85), -75 + rng.uniform(0, 4)
    while x < 75:
        if rng.random() < share and not town.beside_crossing(x, 4):
            yaw = (np.pi if side == 0 else 0.0) + rng.uniform(-0.04, 0.04) + (np.pi if rng.random() < 0.1 else 0)
            kind = rng.random()
            if kind < 0.88 and town.plots.claim(x, sign * y, 2.5, 1.0):
                vehicles.car(town.b, rng, Pose(x, sign * y, 0, yaw))
            elif kind >= 0.96 and town.plots.claim(x, sign * y, 5.0, 1.0):
                vehicles.truck(town.b, rng, Pose(x, sign * y, 0, yaw))
            elif town.plots.claim(x, sign * y, 1.0, 0.5):
                vehicles.motorcycle(town.b, rng, Pose(x, sign * y, 0, yaw + rng.uniform(-0.6, 0.6)))
        x += rng.uniform(5.4, 9.0)


def _pole(town: Town, pose: Pose) -> None:
    kind = town.rng.random()
    if kind < 0.34:
        furniture.lamp(town.b, town.rng, pose)
    elif kind < 0.68:
        furniture.sign(town.b, town.rng, pose)
    elif kind < 0.86:
        furniture.traffic_light(town.b, town.rng, pose)
    elif kind < 0.95:
        furniture.mast(town.b, town.rng, pose)
    else:
        furniture.bollards(town.b, town.rng, pose)


def _kerbside(town: Town, side: int) -> None:
    """Poles and trees along the kerb, bushes in yards, bicycles leaning about, signals at the crossing."""
    rng, layout = town.rng, town.layout
    strip, sign = layout.sides[side], (1 if side == 0 else -1)
    kerb = layout.kerb(side)
    facing = np.pi if side == 0 else 0.0
    c = layout.crossing
    if c is not None and rng.random() < 0.7:
        for end in (-1, 1):
            x = c.x + end * (c.half_width + rng.uniform(1.2, 1.8))
            y = sign * (kerb + rng.uniform(0.9, 1.4))
            if town.plots.claim(x, y, 0.2, 0.2):
                furniture.traffic_light(town.b, rng, Pose(x, y, 0, facing))
    for _ in range(int(rng.integers(7, 15))):
        x, y = rng.uniform(-60, 60), sign * (kerb + rng.uniform(0.35, 0.6))
        if not town.beside_crossing(x, 1.5) and town.plots.claim(x, y, 0.2, 0.2):
            _pole(town, Pose(x, y, 0, facing))
    lush = rng.uniform(0, 1) ** 1.5
    gap, x = rng.uniform(6, 14), -80 + rng.uniform(0, 8)
    while x < 80:
        y = sign * (kerb + (strip.verge / 2 if strip.verge else rng.uniform(0.7, 0.9)))
        if rng.random() < lush and not town.beside_crossing(x, 3) and town.plots.claim(x, y, 0.5, 0.4):
            furniture.tree(town.b, rng, Pose(x, y), town.domain, scale=rng.uniform(0.8, 1.1))
        x += gap * rng.uniform(0.8, 1.3)
    if strip.yard > 1.0:
        for _ in range(int(rng.integers(4, 16))):
            x, depth = rng.uniform(-55, 55), rng.uniform(0.5, strip.yard)
            y = sign * (kerb + strip.verge + strip.sidewalk + depth)
            if not town.beside_crossing(x, 4) and town.plots.claim(x, y, 0.6, 0.4):
                furniture.bush(town.b, rng, Pose(x, y), town.domain)
    for _ in range(int(rng.integers(0, 6))):
        x, y = rng.uniform(-24, 24), sign * (kerb + strip.verge + rng.uniform(0.3, strip.sidewalk))
        if town.plots.claim(x, y, 0.9, 0.3):
            vehicles.bicycle(town.b, rng, Pose(x, y, 0, rng.uniform(-0.4, 0.4)))


def _pedestrians(town: Town, side: int) -> None:
    rng, layout = town.rng, town.layout
    strip, sign, kerb = layout.sides[side], (1 if side == 0 else -1), layout.kerb(side)
    for _ in range(int(rng.integers(3, 14))):
        x = float(np.clip(rng.normal(0, 16), -45, 45))
        near = strip.verge + rng.uniform(0.4, strip.sidewalk - 0.2)
        if rng.random() < 0.18:  # stepping out from between, or standing before, parked cars
            near = -rng.uniform(0.3, 3.2)
        heading = rng.choice([0.0, np.pi]) + rng.normal(0, 0.4)
        if town.plots.claim(x, sign * (kerb + near), 0.3, 0.3):
            people.pedestrian(town.b, rng, Pose(x, sign * (kerb + near), 0, heading))
            if rng.random() < 0.3 and town.plots.claim(x + 0.1, sign * (kerb + near + 0.62), 0.25, 0.25):
                people.pedestrian(town.b, rng, Pose(x + 0.1, sign * (kerb + near + 0.62), 0, heading))


def _traffic(town: Town) -> None:
    rng, layout, b = town.rng, town.layout, town.b
    if layout.rails and rng.random() < 0.8:
        sign = int(rng.choice([-1, 1]))
        x = rng.uniform(14, 30) * rng.choice([-1, 1])
        if town.plots.claim(x - 8 * (1 if sign < 0 else -1), sign * LANE / 2, 13, 1.4):
            vehicles.tram(b, rng, Pose(x, sign * LANE / 2, 0, 0.0 if sign < 0 else np.pi))
    density = rng.uniform(0.15, 0.6)
    for lane in range(layout.lanes):
        for sign in (-1, 1):
            y = sign * (lane + 0.5) * LANE
            yaw = np.pi if sign > 0 else 0.0
            x = -70 + rng.uniform(0, 12)
            while x < 70:
                if rng.random() < density:
                    _moving(town, Pose(x, y + rng.uniform(-0.25, 0.25), 0, yaw + rng.uniform(-0.03, 0.03)))
                x += rng.uniform(8, 16)


def _moving(town: Town, pose: Pose) -> None:
    rng, b, claim = town.rng, town.b, town.plots.claim
    kind = rng.random()
    if kind < 0.62:
        if claim(pose.x, pose.y, 2.6, 1.0):
            vehicles.car(b, rng, pose)
    elif kind < 0.70:
        if claim(pose.x, pose.y, 5.2, 1.2):
            vehicles.truck(b, rng, pose)
    elif kind < 0.77:
        if claim(pose.x, pose.y, 6.4, 1.3):
            vehicles.bus(b, rng, pose)
    else:
        _road_user(town, pose.x, pose.y + (0.9 if pose.y > 0 else -0.9), 2 if kind < 0.91 else 3)


def _cross_street(town: Town) -> None:
    """Buildings that line the crossing street, and its traffic."""
    rng, layout = town.rng, town.layout
    c = layout.crossing
    assert c is not None
    for side in (0, 1):
        sign = 1 if side == 0 else -1
        start = layout.kerb(side) + layout.sides[side].building_line
        for flank in (-1, 1):
            y = start + rng.uniform(14, 17)
            while y < 85:
                half, depth = rng.uniform(5, 11), rng.uniform(4, 6)
                x = c.x + flank * (c.half_width + c.sidewalk + depth)
                facing = np.pi / 2 if flank > 0 else -np.pi / 2
                pose = Pose(x, sign * (y + half), 0, facing)
                buildings.building(town.b, rng, pose, half, depth, town.domain, detailed=False)
                y += 2 * half
        for _ in range(int(rng.integers(0, 4))):
            lane = int(rng.choice([-1, 1]))
            x, y = c.x + lane * c.half_width / 2, sign * rng.uniform(layout.kerb(side) + 3, 45)
            if town.plots.claim(x, y, 1.0, 2.6):
                vehicles.car(town.b, rng, Pose(x, y, 0, np.pi / 2 * lane + rng.uniform(-0.05, 0.05)))


def _vistas(town: Town) -> None:
    """Blocks that close both ends of the streets, and a second row behind the first for the skyline."""
    rng, b, domain, layout = town.rng, town.b, town.domain, town.layout
    for end in (-1, 1):
        for k in range(-2, 3):
            pose = Pose(end * (_EXTENT + rng.uniform(18, 40)), 26.0 * k + rng.uniform(-4, 4), 0, np.pi / 2)
            buildings.backdrop(b, rng, pose, rng.uniform(9, 13), domain)
        if layout.crossing is not None:
            pose = Pose(layout.crossing.x + rng.uniform(-5, 5), end * 105, 0, 0)
            buildings.backdrop(b, rng, pose, 16, domain)
        x = -_EXTENT
        while x < _EXTENT:
            half = rng.uniform(8, 16)
            open_here = town.beside_crossing(x + half, half + 5)
            if not open_here and rng.random() < 0.6:
                buildings.backdrop(b, rng, Pose(x + half, end * rng.uniform(42, 70), 0, 0), half, domain)
            x += 2 * half + rng.uniform(0, 10)
