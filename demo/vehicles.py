"""Cars, vans, trucks, buses, trams, motorcycles and bicycles, out of a handful of solids each.

Every function appends one object to a `Builder`; its frame looks forward along x, wheels on the ground.
"""

import numpy as np

from demo.classes import Class
from demo.colours import CHROME, F64, GLASS, RUBBER, car_paint, grey, paint
from demo.primitives import Builder, Material, Pose, Shape

Rng = np.random.Generator


def _wheels(
    b: Builder, pose: Pose, semantic: int, i: int, axles: tuple[float, ...], track: float, radius: float
) -> None:
    for x in axles:
        for y in (-track, track):
            b.solid(
                Shape.ELLIPSOID,
                pose,
                (x, y, radius),
                (radius, 0.13, radius),
                semantic,
                i,
                RUBBER,
                Material.WHEEL,
            )


def car(b: Builder, rng: Rng, pose: Pose, colour: F64 | None = None) -> None:
    """A hatchback, saloon, sport utility or van, 3.8 to 5 m long."""
    i, sem = b.instance(), Class.CAR
    colour = car_paint(rng) if colour is None else colour
    kind = rng.choice(4, p=[0.35, 0.3, 0.2, 0.15])
    length = (1.95, 2.3, 2.25, 2.45)[kind] * rng.uniform(0.95, 1.05)
    width = (0.86, 0.9, 0.95, 0.98)[kind]
    waist = (0.36, 0.34, 0.43, 0.48)[kind]
    ground = (0.2, 0.18, 0.27, 0.24)[kind]
    roof = (0.29, 0.26, 0.31, 0.50)[kind]
    span = (0.62, 0.55, 0.66, 0.80)[kind] * length
    back = (-0.30, -0.12, -0.28, -0.18)[kind] * length
    slope = ((0.34, 0.10), (0.46, 0.12), (0.28, 0.08), (0.20, 0.06))[kind]
    b.solid(
        Shape.WEDGE,
        pose,
        (0, 0, ground + waist),
        (length, width, waist),
        sem,
        i,
        colour,
        Material.CAR_BODY,
        taper=(0.06, 0.10),
        texture=(ground, float(rng.random() < 0.5), 0, 0),
    )
    b.solid(
        Shape.WEDGE,
        pose,
        (back, 0, ground + 2 * waist + roof - 0.02),
        (span, width * 0.93, roof),
        sem,
        i,
        colour,
        Material.CAR_CABIN,
        taper=slope,
        texture=(2 if kind < 3 else 3, 0, 0, 0),
    )
    _wheels(b, pose, sem, i, (-0.60 * length, 0.62 * length), width - 0.06, 0.32 if kind < 2 else 0.36)
    for y in (-width, width):
        b.solid(
            Shape.BOX,
            pose,
            (0.22 * length, y * 1.05, ground + 2 * waist + 0.06),
            (0.08, 0.07, 0.07),
            sem,
            i,
            colour,
        )


def truck(b: Builder, rng: Rng, pose: Pose) -> None:
    """A box truck, 6 to 9 m long."""
    i, sem = b.instance(), Class.TRUCK
    cargo = rng.uniform(2.2, 3.6)
    high = rng.uniform(1.05, 1.45)
    cab = car_paint(rng)
    load = grey(rng.uniform(0.6, 0.92)) if rng.random() < 0.5 else paint(rng.random(), rng.uniform(0.2, 0.7), 0.6)
    logo = (float(rng.random()), float(rng.random() < 0.6), 0.0, 0.0)
    b.solid(Shape.BOX, pose, (-0.9, 0, 0.72), (cargo, 0.55, 0.16), sem, i, grey(0.18))
    b.solid(
        Shape.BOX,
        pose,
        (-0.9, 0, 0.95 + high),
        (cargo, 1.2, high),
        sem,
        i,
        load,
        Material.CARGO,
        texture=logo,
    )
    b.solid(
        Shape.WEDGE,
        pose,
        (cargo + 0.15, 0, 1.45),
        (0.95, 1.1, 1.05),
        sem,
        i,
        cab,
        Material.COACH,
        taper=(0.12, 0.05),
        texture=(0.05, 0.72, 3, 0),
    )
    _wheels(b, pose, sem, i, (-0.9 - cargo * 0.55, cargo + 0.1), 1.02, 0.46)


def bus(b: Builder, rng: Rng, pose: Pose) -> None:
    """A city bus, 9 to 12 m long."""
    i = b.instance()
    colour = paint(float(rng.choice([0.0, 0.08, 0.14, 0.36, 0.6])), rng.uniform(0.35, 0.85), rng.uniform(0.5, 0.9))
    _coach(b, rng, pose, Class.BUS, i, rng.uniform(4.6, 5.9), 1.25, 1.35, 0.33, colour)


def tram(b: Builder, rng: Rng, pose: Pose) -> None:
    """A tram of two or three sections on the road's rails, 14 to 24 m long."""
    i = b.instance()
    colour = paint(float(rng.choice([0.0, 0.13, 0.6])), rng.uniform(0.4, 0.8), rng.uniform(0.45, 0.85))
    half = rng.uniform(3.4, 4.1)
    for section in range(int(rng.integers(2, 4))):
        part = pose.moved(-section * (2 * half + 0.4), 0)
        _coach(b, rng, part, Class.TRAIN, i, half, 1.2, 1.45, 0.22, colour)
        b.solid(Shape.BOX, part, (-half - 0.2, 0, 1.7), (0.25, 1.0, 1.35), Class.TRAIN, i, grey(0.12))
    b.solid(Shape.BOX, pose, (0, 0, 3.35), (1.3, 0.5, 0.12), Class.TRAIN, i, grey(0.35))


def _coach(
    b: Builder,
    rng: Rng,
    pose: Pose,
    sem: int,
    i: int,
    half: float,
    width: float,
    high: float,
    ground: float,
    colour: F64,
) -> None:
    b.solid(
        Shape.WEDGE,
        pose,
        (0, 0, ground + high),
        (half, width, high),
        sem,
        i,
        colour,
        Material.COACH,
        taper=(0.01, 0.04),
        texture=(-0.05, 0.62, 1.45, float(rng.random())),
    )
    b.solid(Shape.BOX, pose, (-half * 0.3, 0, ground + 2 * high + 0.1), (half * 0.3, 0.7, 0.1), sem, i, grey(0.6))
    _wheels(b, pose, sem, i, (-0.6 * half, 0.62 * half), width - 0.12, 0.45)


def bicycle(b: Builder, rng: Rng, pose: Pose) -> None:
    """A bicycle, 1.75 m long."""
    i, sem = b.instance(), Class.BICYCLE
    frame = paint(rng.random(), rng.uniform(0.1, 0.8), rng.uniform(0.1, 0.7))
    for x in (-0.53, 0.53):
        b.solid(Shape.ELLIPSOID, pose, (x, 0, 0.34), (0.34, 0.035, 0.34), sem, i, RUBBER, Material.WHEEL)
    crank, seat, head = (0.0, 0.0, 0.30), (-0.17, 0.0, 0.86), (0.40, 0.0, 0.86)
    tubes = (
        (crank, seat),
        (crank, head),
        ((-0.12, 0.0, 0.74), head),
        ((-0.53, 0.0, 0.34), crank),
        ((0.53, 0.0, 0.34), (0.38, 0.0, 1.0)),
    )
    for start, end in tubes:
        b.capsule(pose, start, end, 0.028, sem, i, frame)
    b.capsule(pose, (0.38, -0.26, 1.02), (0.38, 0.26, 1.02), 0.025, sem, i, CHROME)
    b.solid(Shape.ELLIPSOID, pose, (-0.2, 0, 0.92), (0.14, 0.08, 0.05), sem, i, grey(0.1))
    if rng.random() < 0.3:
        b.solid(Shape.BOX, pose, (0.62, 0, 0.86), (0.16, 0.17, 0.12), sem, i, paint(0.08, 0.5, 0.4))


def motorcycle(b: Builder, rng: Rng, pose: Pose) -> None:
    """A motorcycle or scooter, 2 m long."""
    i, sem = b.instance(), Class.MOTORCYCLE
    colour = car_paint(rng)
    for x in (-0.66, 0.66):
        b.solid(Shape.ELLIPSOID, pose, (x, 0, 0.3), (0.3, 0.09, 0.3), sem, i, RUBBER, Material.WHEEL)
    b.solid(Shape.BOX, pose, (-0.05, 0, 0.42), (0.42, 0.16, 0.16), sem, i, grey(0.2))
    b.solid(Shape.ELLIPSOID, pose, (0.18, 0, 0.76), (0.40, 0.19, 0.18), sem, i, colour)
    b.solid(Shape.ELLIPSOID, pose, (-0.45, 0, 0.78), (0.42, 0.15, 0.10), sem, i, grey(0.08))
    b.capsule(pose, (0.66, 0, 0.3), (0.42, 0, 1.0), 0.05, sem, i, CHROME)
    b.capsule(pose, (0.42, -0.33, 1.04), (0.42, 0.33, 1.04), 0.03, sem, i, grey(0.15))
    b.solid(Shape.ELLIPSOID, pose, (0.62, 0, 0.86), (0.12, 0.12, 0.13), sem, i, GLASS)
