"""Cars, vans, trucks, buses, trams, motorcycles and bicycles.

Every function draws one object at random and adds it to a builder. Its frame has x forward and the wheels on the
ground.
"""

import numpy as np

from demo.classes import Class
from demo.colours import CHROME, F64, GLASS, RUBBER, draw_car_colour, grey, hsv
from demo.primitives import Material, ObjectBuilder, Pose, SceneBuilder, Shape

Rng = np.random.Generator


def _add_wheels(obj: ObjectBuilder, axles: tuple[float, ...], half_track: float, radius: float) -> None:
    for x in axles:
        for y in (-half_track, half_track):
            obj.add_solid(Shape.ELLIPSOID, (x, y, radius), (radius, 0.13, radius), RUBBER, Material.WHEEL)


def add_car(builder: SceneBuilder, rng: Rng, pose: Pose) -> None:
    """Adds a hatchback, saloon, sport utility vehicle or van of 3.8 to 5 m."""
    obj = builder.new_object(pose, Class.CAR)
    colour = draw_car_colour(rng)
    kind = rng.choice(4, p=[0.35, 0.3, 0.2, 0.15])
    length = (1.95, 2.3, 2.25, 2.45)[kind] * rng.uniform(0.95, 1.05)
    width = (0.86, 0.9, 0.95, 0.98)[kind]
    waist = (0.36, 0.34, 0.43, 0.48)[kind]
    ground = (0.2, 0.18, 0.27, 0.24)[kind]
    roof = (0.29, 0.26, 0.31, 0.50)[kind]
    cabin = (0.62, 0.55, 0.66, 0.80)[kind] * length
    cabin_x = (-0.30, -0.12, -0.28, -0.18)[kind] * length
    slope = ((0.34, 0.10), (0.46, 0.12), (0.28, 0.08), (0.20, 0.06))[kind]
    texture = (ground, float(rng.random() < 0.5), 0.0, 0.0)
    body = (length, width, waist)
    obj.add_solid(Shape.WEDGE, (0, 0, ground + waist), body, colour, Material.CAR_BODY, (0.06, 0.10), texture)
    centre, half = (cabin_x, 0, ground + 2 * waist + roof - 0.02), (cabin, width * 0.93, roof)
    texture = (2 if kind < 3 else 3, 0.0, 0.0, 0.0)
    obj.add_solid(Shape.WEDGE, centre, half, colour, Material.CAR_CABIN, slope, texture)
    _add_wheels(obj, (-0.60 * length, 0.62 * length), width - 0.06, 0.32 if kind < 2 else 0.36)
    for y in (-width, width):
        mirror = (0.22 * length, y * 1.05, ground + 2 * waist + 0.06)
        obj.add_solid(Shape.BOX, mirror, (0.08, 0.07, 0.07), colour)


def add_truck(builder: SceneBuilder, rng: Rng, pose: Pose) -> None:
    """Adds a box truck of 6 to 9 m."""
    obj = builder.new_object(pose, Class.TRUCK)
    cargo = rng.uniform(2.2, 3.6)
    height = rng.uniform(1.05, 1.45)
    cab_colour = draw_car_colour(rng)
    if rng.random() < 0.5:
        box_colour = grey(rng.uniform(0.6, 0.92))
    else:
        box_colour = hsv(rng.random(), rng.uniform(0.2, 0.7), 0.6)
    emblem = (float(rng.random()), float(rng.random() < 0.6), 0.0, 0.0)
    obj.add_solid(Shape.BOX, (-0.9, 0, 0.72), (cargo, 0.55, 0.16), grey(0.18))
    half = (cargo, 1.2, height)
    obj.add_solid(Shape.BOX, (-0.9, 0, 0.95 + height), half, box_colour, Material.CARGO, texture=emblem)
    centre, half, texture = (cargo + 0.15, 0, 1.45), (0.95, 1.1, 1.05), (0.05, 0.72, 3, 0)
    obj.add_solid(Shape.WEDGE, centre, half, cab_colour, Material.COACH, (0.12, 0.05), texture)
    _add_wheels(obj, (-0.9 - cargo * 0.55, cargo + 0.1), 1.02, 0.46)


def add_bus(builder: SceneBuilder, rng: Rng, pose: Pose) -> None:
    """Adds a city bus of 9 to 12 m."""
    obj = builder.new_object(pose, Class.BUS)
    colour = hsv(float(rng.choice([0.0, 0.08, 0.14, 0.36, 0.6])), rng.uniform(0.35, 0.85), rng.uniform(0.5, 0.9))
    _add_coach(obj, rng, (rng.uniform(4.6, 5.9), 1.25, 1.35), 0.33, colour)


def add_tram(builder: SceneBuilder, rng: Rng, pose: Pose) -> None:
    """Adds a tram of two or three sections, 14 to 24 m."""
    obj = builder.new_object(pose, Class.TRAIN)
    colour = hsv(float(rng.choice([0.0, 0.13, 0.6])), rng.uniform(0.4, 0.8), rng.uniform(0.45, 0.85))
    length = rng.uniform(3.4, 4.1)
    for index in range(int(rng.integers(2, 4))):
        section = obj.moved(-index * (2 * length + 0.4), 0)
        _add_coach(section, rng, (length, 1.2, 1.45), 0.22, colour)
        section.add_solid(Shape.BOX, (-length - 0.2, 0, 1.7), (0.25, 1.0, 1.35), grey(0.12))
    obj.add_solid(Shape.BOX, (0, 0, 3.35), (1.3, 0.5, 0.12), grey(0.35))


def _add_coach(obj: ObjectBuilder, rng: Rng, half: tuple[float, float, float], ground: float, colour: F64) -> None:
    """Adds the body of a bus or of a tram section; `ground` is the ground clearance."""
    length, width, height = half
    texture = (-0.05, 0.62, 1.45, float(rng.random()))
    obj.add_solid(Shape.WEDGE, (0, 0, ground + height), half, colour, Material.COACH, (0.01, 0.04), texture)
    roof = (-length * 0.3, 0, ground + 2 * height + 0.1)
    obj.add_solid(Shape.BOX, roof, (length * 0.3, 0.7, 0.1), grey(0.6))
    _add_wheels(obj, (-0.6 * length, 0.62 * length), width - 0.12, 0.45)


def add_bicycle(builder: SceneBuilder, rng: Rng, pose: Pose) -> None:
    """Adds a bicycle of 1.75 m."""
    obj = builder.new_object(pose, Class.BICYCLE)
    frame = hsv(rng.random(), rng.uniform(0.1, 0.8), rng.uniform(0.1, 0.7))
    for x in (-0.53, 0.53):
        obj.add_solid(Shape.ELLIPSOID, (x, 0, 0.34), (0.34, 0.035, 0.34), RUBBER, Material.WHEEL)
    crank, seat, head = (0.0, 0.0, 0.30), (-0.17, 0.0, 0.86), (0.40, 0.0, 0.86)
    tubes = (
        (crank, seat),
        (crank, head),
        ((-0.12, 0.0, 0.74), head),
        ((-0.53, 0.0, 0.34), crank),
        ((0.53, 0.0, 0.34), (0.38, 0.0, 1.0)),
    )
    for start, end in tubes:
        obj.add_capsule(start, end, 0.028, frame)
    obj.add_capsule((0.38, -0.26, 1.02), (0.38, 0.26, 1.02), 0.025, CHROME)
    obj.add_solid(Shape.ELLIPSOID, (-0.2, 0, 0.92), (0.14, 0.08, 0.05), grey(0.1))
    if rng.random() < 0.3:
        obj.add_solid(Shape.BOX, (0.62, 0, 0.86), (0.16, 0.17, 0.12), hsv(0.08, 0.5, 0.4))


def add_motorcycle(builder: SceneBuilder, rng: Rng, pose: Pose) -> None:
    """Adds a motorcycle or scooter of 2 m."""
    obj = builder.new_object(pose, Class.MOTORCYCLE)
    colour = draw_car_colour(rng)
    for x in (-0.66, 0.66):
        obj.add_solid(Shape.ELLIPSOID, (x, 0, 0.3), (0.3, 0.09, 0.3), RUBBER, Material.WHEEL)
    obj.add_solid(Shape.BOX, (-0.05, 0, 0.42), (0.42, 0.16, 0.16), grey(0.2))
    obj.add_solid(Shape.ELLIPSOID, (0.18, 0, 0.76), (0.40, 0.19, 0.18), colour)
    obj.add_solid(Shape.ELLIPSOID, (-0.45, 0, 0.78), (0.42, 0.15, 0.10), grey(0.08))
    obj.add_capsule((0.66, 0, 0.3), (0.42, 0, 1.0), 0.05, CHROME)
    obj.add_capsule((0.42, -0.33, 1.04), (0.42, 0.33, 1.04), 0.03, grey(0.15))
    obj.add_solid(Shape.ELLIPSOID, (0.62, 0, 0.86), (0.12, 0.12, 0.13), GLASS)
