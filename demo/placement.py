"""Places objects on a ground plan: buildings behind the sidewalks, vehicles in the lanes, pedestrians, furniture.

Footprints never overlap: every object reserves its rectangle first. Objects at the seam of the panorama and at window
edges, hard cases for fusion, are placed before all others.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from demo import buildings, furniture, people, vehicles
from demo.domain import Domain
from demo.layout import LANE, PARKING, Layout
from demo.primitives import Pose, SceneBuilder

Rng = np.random.Generator
_EXTENT = 140.0  # half the length of the street, metres
_EDGE_STEP = 45.0  # degrees between window edges: 256 of 2048 columns
#: Kinds of poles with their cumulative probabilities.
_POLES = (
    (0.34, furniture.add_street_lamp),
    (0.68, furniture.add_sign),
    (0.86, furniture.add_traffic_light),
    (0.95, furniture.add_utility_pole),
    (1.0, furniture.add_bollards),
)


@dataclass
class Occupancy:
    """Reserved rectangles of the ground, `(x, y, half_x, half_y)` in metres."""

    rectangles: list[tuple[float, float, float, float]] = field(default_factory=list)

    def reserve(self, x: float, y: float, half_x: float, half_y: float) -> bool:
        """Reserves a rectangle if it overlaps no other; returns whether it did."""
        for other_x, other_y, other_half_x, other_half_y in self.rectangles:
            if abs(x - other_x) < half_x + other_half_x and abs(y - other_y) < half_y + other_half_y:
                return False
        self.rectangles.append((x, y, half_x, half_y))
        return True


@dataclass
class Site:
    """Arguments that all placing functions share."""

    builder: SceneBuilder
    rng: Rng
    layout: Layout
    domain: Domain
    occupancy: Occupancy

    def is_near_crossing(self, x: float, margin: float) -> bool:
        """Returns whether `x` is within `margin` metres of the crossing street."""
        c = self.layout.crossing
        return c is not None and abs(x - c.x) < c.half_width + margin


def _side_sign(side: int) -> int:
    """Returns the sign of y on a side of the street."""
    return 1 if side == 0 else -1


def _facing_yaw(side: int) -> float:
    """Returns the heading whose left (+y) points at the road from a side of the street."""
    return np.pi if side == 0 else 0.0


def place_objects(
    builder: SceneBuilder, rng: Rng, layout: Layout, domain: Domain, eye: NDArray[np.float64], yaw_deg: float
) -> None:
    """Adds all objects of a street.

    Args:
        builder: receives the objects.
        rng: source of all random numbers.
        layout: the ground plan.
        domain: distributions.
        eye: (3,) camera position, which stays free.
        yaw_deg: heading of the panorama at whose seam and window edges objects are placed.
    """
    site = Site(builder, rng, layout, domain, Occupancy([(float(eye[0]), float(eye[1]), 2.6, 1.3)]))
    _place_at_window_edges(site, eye, yaw_deg)
    for side in (0, 1):
        _place_buildings(site, side)
        _place_parked_vehicles(site, side)
        _place_street_furniture(site, side)
        _place_pedestrians(site, side)
    _place_traffic(site)
    if layout.crossing is not None:
        _place_crossing_street(site)
    _place_backdrop(site)


def _place_at_window_edges(site: Site, eye: NDArray[np.float64], yaw_deg: float) -> None:
    """Places near objects at the panorama's seam and at three window edges, on the road or the sidewalk."""
    rng, layout = site.rng, site.layout
    for k in [4, *rng.choice([0, 1, 2, 3, 5, 6, 7], size=3, replace=False)]:
        azimuth = np.radians(yaw_deg + _EDGE_STEP * float(k))
        c, s = float(np.cos(azimuth)), float(np.sin(azimuth))
        side = 0 if s > 0 else 1
        kerb = layout.kerb(side) + rng.uniform(0.5, 1.2) + layout.sides[side].verge
        kerb_distance = (kerb - eye[1] * _side_sign(side)) / max(abs(s), 1e-6)
        if kerb_distance > 16:
            r = rng.uniform(5.5, 13.0)
            _place_road_user(site, r * c, float(eye[1]) + r * s, int(rng.integers(4)))
        else:
            x, y = kerb_distance * c, float(eye[1]) + kerb_distance * s
            if site.is_near_crossing(x, 1.0) or not site.occupancy.reserve(x, y, 0.35, 0.35):
                continue
            if rng.random() < 0.6:
                people.add_pedestrian(site.builder, rng, Pose(x, y, 0, rng.uniform(0, 2 * np.pi)))
            else:
                _place_pole(site, Pose(x, y, 0, _facing_yaw(side)))


def _place_road_user(site: Site, x: float, y: float, kind: int) -> None:
    """Places a car (0, 1), a bicycle (2) or a motorcycle (3) with rider, heading along its half of the road."""
    builder, rng = site.builder, site.rng
    yaw = (np.pi if y > 0 else 0.0) + rng.uniform(-0.06, 0.06)
    half = (2.5, 1.05) if kind < 2 else (1.1, 0.5)
    if not site.occupancy.reserve(x, y, *half):
        return
    pose = Pose(x, y, 0, yaw)
    if kind < 2:
        vehicles.add_car(builder, rng, pose)
    elif kind == 2:
        vehicles.add_bicycle(builder, rng, pose)
        people.add_rider(builder, rng, pose)
    else:
        vehicles.add_motorcycle(builder, rng, pose)
        people.add_rider(builder, rng, pose, upright=True)


def _place_buildings(site: Site, side: int) -> None:
    """Places buildings wall to wall or with gaps; a gap has a fence, a wall or a hedge with trees behind."""
    rng, layout, builder = site.rng, site.layout, site.builder
    sign = _side_sign(side)
    line = layout.kerb(side) + layout.sides[side].building_line
    x = -_EXTENT + rng.uniform(0, 8)
    while x < _EXTENT:
        width = rng.uniform(8, 24)
        middle = x + width / 2
        if site.is_near_crossing(middle, width / 2 + layout.crossing.sidewalk if layout.crossing else 0):
            x += 1.5
            continue
        if rng.random() < 0.74:
            half_depth = rng.uniform(4, 7)
            setback = rng.uniform(0, 1.5) if rng.random() < 0.3 else 0.0
            pose = Pose(middle, sign * (line + setback + half_depth), 0, _facing_yaw(side))
            buildings.add_building(builder, rng, pose, width / 2, half_depth, site.domain, abs(middle) < 45)
        else:
            _place_garden(site, middle, width, line, sign)
        x += width + (rng.uniform(2, 7) if rng.random() < 0.2 else 0.0)


def _place_garden(site: Site, middle: float, width: float, line: float, sign: int) -> None:
    builder, rng = site.builder, site.rng
    pose = Pose(middle, sign * (line + 0.4), 0, 0.0)
    kind = rng.random()
    if kind < 0.42:
        furniture.add_fence(builder, rng, pose, width / 2)
    elif kind < 0.80:
        furniture.add_wall(builder, rng, pose, width / 2)
    else:
        furniture.add_hedge(builder, rng, pose, width / 2, site.domain)
    for _ in range(int(rng.integers(1, 5))):
        pose = Pose(middle + rng.uniform(-0.5, 0.5) * width, sign * (line + rng.uniform(2.5, 9)))
        furniture.add_tree(builder, rng, pose, site.domain, scale=rng.uniform(0.9, 1.3))


def _place_parked_vehicles(site: Site, side: int) -> None:
    builder, rng, layout, reserve = site.builder, site.rng, site.layout, site.occupancy.reserve
    if not layout.sides[side].parking:
        return
    y = _side_sign(side) * (layout.kerb(side) - PARKING / 2)
    density, x = rng.uniform(0.25, 0.85), -75 + rng.uniform(0, 4)
    while x < 75:
        if rng.random() < density and not site.is_near_crossing(x, 4):
            yaw = _facing_yaw(side) + rng.uniform(-0.04, 0.04) + (np.pi if rng.random() < 0.1 else 0)
            kind = rng.random()
            if kind < 0.88 and reserve(x, y, 2.5, 1.0):
                vehicles.add_car(builder, rng, Pose(x, y, 0, yaw))
            elif kind >= 0.96 and reserve(x, y, 5.0, 1.0):
                vehicles.add_truck(builder, rng, Pose(x, y, 0, yaw))
            elif reserve(x, y, 1.0, 0.5):
                vehicles.add_motorcycle(builder, rng, Pose(x, y, 0, yaw + rng.uniform(-0.6, 0.6)))
        x += rng.uniform(5.4, 9.0)


def _place_pole(site: Site, pose: Pose) -> None:
    kind = site.rng.random()
    add_pole = next(add for limit, add in _POLES if kind < limit)
    add_pole(site.builder, site.rng, pose)


def _place_street_furniture(site: Site, side: int) -> None:
    """Places signals at the crossing, poles and trees along the kerb, bushes in yards, and parked bicycles."""
    builder, rng, layout, reserve = site.builder, site.rng, site.layout, site.occupancy.reserve
    strip, sign, kerb = layout.sides[side], _side_sign(side), layout.kerb(side)
    yaw = _facing_yaw(side)
    c = layout.crossing
    if c is not None and rng.random() < 0.7:
        for end in (-1, 1):
            x = c.x + end * (c.half_width + rng.uniform(1.2, 1.8))
            y = sign * (kerb + rng.uniform(0.9, 1.4))
            if reserve(x, y, 0.2, 0.2):
                furniture.add_traffic_light(builder, rng, Pose(x, y, 0, yaw))
    for _ in range(int(rng.integers(7, 15))):
        x, y = rng.uniform(-60, 60), sign * (kerb + rng.uniform(0.35, 0.6))
        if not site.is_near_crossing(x, 1.5) and reserve(x, y, 0.2, 0.2):
            _place_pole(site, Pose(x, y, 0, yaw))
    density = rng.uniform(0, 1) ** 1.5
    gap, x = rng.uniform(6, 14), -80 + rng.uniform(0, 8)
    while x < 80:
        y = sign * (kerb + (strip.verge / 2 if strip.verge else rng.uniform(0.7, 0.9)))
        if rng.random() < density and not site.is_near_crossing(x, 3) and reserve(x, y, 0.5, 0.4):
            furniture.add_tree(builder, rng, Pose(x, y), site.domain, scale=rng.uniform(0.8, 1.1))
        x += gap * rng.uniform(0.8, 1.3)
    if strip.yard > 1.0:
        for _ in range(int(rng.integers(4, 16))):
            x, depth = rng.uniform(-55, 55), rng.uniform(0.5, strip.yard)
            y = sign * (kerb + strip.verge + strip.sidewalk + depth)
            if not site.is_near_crossing(x, 4) and reserve(x, y, 0.6, 0.4):
                furniture.add_bush(builder, rng, Pose(x, y), site.domain)
    for _ in range(int(rng.integers(0, 6))):
        x, y = rng.uniform(-24, 24), sign * (kerb + strip.verge + rng.uniform(0.3, strip.sidewalk))
        if reserve(x, y, 0.9, 0.3):
            vehicles.add_bicycle(builder, rng, Pose(x, y, 0, rng.uniform(-0.4, 0.4)))


def _place_pedestrians(site: Site, side: int) -> None:
    builder, rng, layout, reserve = site.builder, site.rng, site.layout, site.occupancy.reserve
    strip, sign, kerb = layout.sides[side], _side_sign(side), layout.kerb(side)
    for _ in range(int(rng.integers(3, 14))):
        x = float(np.clip(rng.normal(0, 16), -45, 45))
        offset = strip.verge + rng.uniform(0.4, strip.sidewalk - 0.2)
        if rng.random() < 0.18:  # on the road, between or in front of parked cars
            offset = -rng.uniform(0.3, 3.2)
        heading = rng.choice([0.0, np.pi]) + rng.normal(0, 0.4)
        if reserve(x, sign * (kerb + offset), 0.3, 0.3):
            people.add_pedestrian(builder, rng, Pose(x, sign * (kerb + offset), 0, heading))
            if rng.random() < 0.3 and reserve(x + 0.1, sign * (kerb + offset + 0.62), 0.25, 0.25):
                people.add_pedestrian(builder, rng, Pose(x + 0.1, sign * (kerb + offset + 0.62), 0, heading))


def _place_traffic(site: Site) -> None:
    rng, layout = site.rng, site.layout
    if layout.rails and rng.random() < 0.8:
        sign = int(rng.choice([-1, 1]))
        x = rng.uniform(14, 30) * rng.choice([-1, 1])
        if site.occupancy.reserve(x - 8 * (1 if sign < 0 else -1), sign * LANE / 2, 13, 1.4):
            vehicles.add_tram(site.builder, rng, Pose(x, sign * LANE / 2, 0, 0.0 if sign < 0 else np.pi))
    density = rng.uniform(0.15, 0.6)
    for lane in range(layout.lanes):
        for sign in (-1, 1):
            y = sign * (lane + 0.5) * LANE
            yaw = np.pi if sign > 0 else 0.0
            x = -70 + rng.uniform(0, 12)
            while x < 70:
                if rng.random() < density:
                    pose = Pose(x, y + rng.uniform(-0.25, 0.25), 0, yaw + rng.uniform(-0.03, 0.03))
                    _place_moving_vehicle(site, pose)
                x += rng.uniform(8, 16)


def _place_moving_vehicle(site: Site, pose: Pose) -> None:
    rng, builder, reserve = site.rng, site.builder, site.occupancy.reserve
    kind = rng.random()
    if kind < 0.62:
        if reserve(pose.x, pose.y, 2.6, 1.0):
            vehicles.add_car(builder, rng, pose)
    elif kind < 0.70:
        if reserve(pose.x, pose.y, 5.2, 1.2):
            vehicles.add_truck(builder, rng, pose)
    elif kind < 0.77:
        if reserve(pose.x, pose.y, 6.4, 1.3):
            vehicles.add_bus(builder, rng, pose)
    else:
        _place_road_user(site, pose.x, pose.y + (0.9 if pose.y > 0 else -0.9), 2 if kind < 0.91 else 3)


def _place_crossing_street(site: Site) -> None:
    """Places the buildings and the cars of the crossing street."""
    builder, rng, layout = site.builder, site.rng, site.layout
    c = layout.crossing
    assert c is not None
    for side in (0, 1):
        sign = _side_sign(side)
        start = layout.kerb(side) + layout.sides[side].building_line
        for flank in (-1, 1):
            y = start + rng.uniform(14, 17)
            while y < 85:
                half, depth = rng.uniform(5, 11), rng.uniform(4, 6)
                x = c.x + flank * (c.half_width + c.sidewalk + depth)
                pose = Pose(x, sign * (y + half), 0, np.pi / 2 if flank > 0 else -np.pi / 2)
                buildings.add_building(builder, rng, pose, half, depth, site.domain, detailed=False)
                y += 2 * half
        for _ in range(int(rng.integers(0, 4))):
            lane = int(rng.choice([-1, 1]))
            x, y = c.x + lane * c.half_width / 2, sign * rng.uniform(layout.kerb(side) + 3, 45)
            if site.occupancy.reserve(x, y, 1.0, 2.6):
                vehicles.add_car(builder, rng, Pose(x, y, 0, np.pi / 2 * lane + rng.uniform(-0.05, 0.05)))


def _place_backdrop(site: Site) -> None:
    """Places blocks at the ends of the streets, and a second row of blocks behind the first for the skyline."""
    rng, builder, domain, layout = site.rng, site.builder, site.domain, site.layout
    for end in (-1, 1):
        for k in range(-2, 3):
            pose = Pose(end * (_EXTENT + rng.uniform(18, 40)), 26.0 * k + rng.uniform(-4, 4), 0, np.pi / 2)
            buildings.add_distant_building(builder, rng, pose, rng.uniform(9, 13), domain)
        if layout.crossing is not None:
            pose = Pose(layout.crossing.x + rng.uniform(-5, 5), end * 105, 0, 0)
            buildings.add_distant_building(builder, rng, pose, 16, domain)
        x = -_EXTENT
        while x < _EXTENT:
            half = rng.uniform(8, 16)
            near_crossing = site.is_near_crossing(x + half, half + 5)
            if not near_crossing and rng.random() < 0.6:
                pose = Pose(x + half, end * rng.uniform(42, 70), 0, 0)
                buildings.add_distant_building(builder, rng, pose, half, domain)
            x += 2 * half + rng.uniform(0, 10)
