"""What stands beside the road: poles, lamps, signals, signs, trees, bushes, hedges, fences and walls.

Every function appends one object to a `Builder` (a sign is an object of its own on its pole's object).
In the frame of a pole `left` (+y) is the direction of the road.
"""

import numpy as np

from demo.classes import Class
from demo.colours import F64, grey, linear, paint
from demo.domain import Domain
from demo.primitives import Builder, Material, Pose, Shape

Rng = np.random.Generator
_SIGN_COLOURS = (
    linear((0.78, 0.10, 0.12)),
    linear((0.10, 0.25, 0.68)),
    linear((0.93, 0.76, 0.12)),
    linear((0.10, 0.45, 0.25)),
    linear((0.90, 0.90, 0.88)),
)


def _metal(rng: Rng) -> F64:
    if rng.random() < 0.7:
        return grey(rng.uniform(0.2, 0.68))
    return paint(rng.uniform(0.05, 0.4), rng.uniform(0.1, 0.4), rng.uniform(0.15, 0.4))


def lamp(b: Builder, rng: Rng, pose: Pose) -> None:
    """A street lamp, 4.5 to 8.5 m, often with an arm over the road."""
    i, sem = b.instance(), Class.POLE
    high, colour, r = rng.uniform(4.5, 8.5), _metal(rng), rng.uniform(0.055, 0.10)
    b.capsule(pose, (0, 0, 0), (0, 0, high), r, sem, i, colour)
    b.capsule(pose, (0, 0, 0), (0, 0, 0.7), r * 1.6, sem, i, colour)
    if rng.random() < 0.7:
        arm = rng.uniform(0.9, 2.2)
        b.capsule(pose, (0, 0, high), (0, arm, high + 0.35), r * 0.6, sem, i, colour)
        b.solid(Shape.BOX, pose, (0, arm + 0.25, high + 0.35), (0.13, 0.35, 0.06), sem, i, grey(0.5))
    else:
        b.solid(Shape.ELLIPSOID, pose, (0, 0, high + 0.15), (0.22, 0.22, 0.28), sem, i, grey(0.8))


def mast(b: Builder, rng: Rng, pose: Pose) -> None:
    """A wooden or concrete utility pole with a cross arm, 7 to 10 m."""
    i, sem = b.instance(), Class.POLE
    high, colour = rng.uniform(7, 10), paint(0.08, rng.uniform(0.05, 0.4), rng.uniform(0.3, 0.55))
    b.capsule(pose, (0, 0, 0), (0, 0, high), rng.uniform(0.11, 0.16), sem, i, colour, Material.BARK)
    b.capsule(pose, (0, -1.0, high - 0.6), (0, 1.0, high - 0.6), 0.06, sem, i, colour)


def bollards(b: Builder, rng: Rng, pose: Pose) -> None:
    """A row of three to six low posts along the kerb."""
    colour, gap = _metal(rng), rng.uniform(1.2, 1.8)
    for k in range(int(rng.integers(3, 7))):
        b.capsule(pose, (k * gap, 0, 0), (k * gap, 0, 0.85), 0.07, Class.POLE, b.instance(), colour)


def traffic_light(b: Builder, rng: Rng, pose: Pose) -> None:
    """Signal heads on a pole, one variant with a mast arm over the road; heads look along -x and +x."""
    pole, sem = b.instance(), Class.POLE
    arm = rng.uniform(2.5, 4.0) if rng.random() < 0.35 else 0.0
    high, colour = (5.4 if arm else rng.uniform(2.9, 3.4)), _metal(rng)
    b.capsule(pose, (0, 0, 0), (0, 0, high), 0.075, sem, pole, colour)
    if arm:
        b.capsule(pose, (0, 0, high), (0, arm, high + 0.2), 0.06, sem, pole, colour)
        _signal(b, rng, pose.moved(0.0, arm - 0.15, high - 0.15))
    _signal(b, rng, pose.moved(0.0, 0.24, min(high, 3.3) - 0.55))


def _signal(b: Builder, rng: Rng, pose: Pose) -> None:
    case = grey(rng.uniform(0.04, 0.2)) if rng.random() < 0.75 else linear((0.75, 0.6, 0.1))
    b.solid(
        Shape.BOX,
        pose,
        (0, 0, 0),
        (0.15, 0.17, 0.47),
        Class.TRAFFIC_LIGHT,
        b.instance(),
        case,
        Material.SIGNAL,
        texture=(float(rng.integers(3)), 0, 0, 0),
    )


def sign(b: Builder, rng: Rng, pose: Pose) -> None:
    """One or two traffic signs on a thin pole, facing along the street."""
    pole = b.instance()
    large = rng.random() < 0.15
    high = rng.uniform(2.9, 3.5) if large else rng.uniform(2.2, 3.0)
    b.capsule(pose, (0, 0, 0), (0, 0, high), 0.045, Class.POLE, pole, _metal(rng))
    turn, z = rng.uniform(-0.35, 0.35) + (np.pi if rng.random() < 0.5 else 0.0), high
    for _ in range(1 if rng.random() < 0.65 else 2):
        colour = int(rng.integers(len(_SIGN_COLOURS)))
        kind = 3 if large else int(rng.integers(3))
        size = rng.uniform(0.30, 0.42)
        half = (
            (0.03, size, size),
            (0.03, size * 1.1, size),
            (0.03, size * 0.9, size * 1.1),
            (0.04, 1.0, 0.65),
        )[kind]
        z -= half[2]
        b.solid(
            (Shape.ELLIPSOID, Shape.WEDGE, Shape.BOX, Shape.BOX)[kind],
            pose,
            (-0.08 * float(np.cos(turn)), 0, z),
            half,
            Class.TRAFFIC_SIGN,
            b.instance(),
            _SIGN_COLOURS[colour],
            Material.SIGN,
            taper=(0.0, 0.97) if kind == 1 else (0.0, 0.0),
            texture=(float(kind), float(colour), float(rng.random()), 0),
            turn=turn,
        )
        z -= half[2] + 0.05


def leaf_paint(rng: Rng, domain: Domain) -> F64:
    return paint(rng.uniform(*domain.leaf_hue), rng.uniform(*domain.leaf_saturation), rng.uniform(0.22, 0.5))


def tree(b: Builder, rng: Rng, pose: Pose, domain: Domain, scale: float = 1.0) -> None:
    """A broad-leaved tree or, one in six, a conifer; 4 to 10 m."""
    i, sem, leaf = b.instance(), Class.VEGETATION, leaf_paint(rng, domain)
    bark = paint(rng.uniform(0.05, 0.11), rng.uniform(0.1, 0.5), rng.uniform(0.18, 0.42))
    if rng.random() < 1 / 6:
        r, tiers = rng.uniform(1.2, 1.9) * scale, int(rng.integers(3, 5))
        b.capsule(pose, (0, 0, 0), (0, 0, 1.2), 0.14, sem, i, bark, Material.BARK)
        for k in range(tiers):
            w = r * (1 - 0.75 * k / tiers)
            b.solid(
                Shape.ELLIPSOID,
                pose,
                (0, 0, 1.3 + k * r * 0.95),
                (w, w, r * 0.9),
                sem,
                i,
                leaf * 0.8,
                Material.FOLIAGE,
            )
        return
    stem, r = rng.uniform(2.1, 3.4) * scale, rng.uniform(1.1, 2.4) * scale
    lean_x, lean_y = rng.uniform(-0.25, 0.25, 2)
    b.capsule(
        pose,
        (0, 0, 0),
        (lean_x, lean_y, stem + 0.4 * r),
        rng.uniform(0.09, 0.2) * scale,
        sem,
        i,
        bark,
        Material.BARK,
    )
    for _ in range(2):
        x, y = rng.uniform(-0.6, 0.6, 2) * r
        b.capsule(pose, (lean_x, lean_y, stem), (x, y, stem + 0.7 * r), 0.06 * scale, sem, i, bark, Material.BARK)
    for k in range(int(rng.integers(6, 10))):
        x, y = rng.uniform(-0.8, 0.8, 2) * r * (k > 0)
        w = r * (rng.uniform(0.4, 0.68) if k else 0.9)
        z = stem + r * (rng.uniform(0.3, 1.5) if k else 0.85)
        shade = leaf * rng.uniform(0.75, 1.2)
        b.solid(
            Shape.ELLIPSOID,
            pose,
            (x, y, z),
            (w, w, w * rng.uniform(0.7, 1.0)),
            sem,
            i,
            shade,
            Material.FOLIAGE,
        )


def bush(b: Builder, rng: Rng, pose: Pose, domain: Domain) -> None:
    """A shrub of one to three balls of leaves, 0.6 to 2 m."""
    i, leaf, r = b.instance(), leaf_paint(rng, domain), rng.uniform(0.4, 1.1)
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(-0.7, 0.7, 2) * r
        w = r * rng.uniform(0.6, 1.0)
        shade = leaf * rng.uniform(0.8, 1.15)
        b.solid(
            Shape.ELLIPSOID,
            pose,
            (x, y, w * 0.6),
            (w, w, w * 0.95),
            Class.VEGETATION,
            i,
            shade,
            Material.FOLIAGE,
        )


def hedge(b: Builder, rng: Rng, pose: Pose, half_length: float, domain: Domain) -> None:
    high = rng.uniform(0.5, 0.95)
    b.solid(
        Shape.WEDGE,
        pose,
        (0, 0, high),
        (half_length, 0.35, high),
        Class.VEGETATION,
        b.instance(),
        leaf_paint(rng, domain),
        Material.HEDGE,
        taper=(0.02, 0.2),
    )


def fence(b: Builder, rng: Rng, pose: Pose, half_length: float) -> None:
    """Pickets (0), mesh (1) or railing (2), 0.9 to 2 m high."""
    kind = int(rng.integers(3))
    high = (rng.uniform(0.55, 0.95), rng.uniform(0.6, 1.0), rng.uniform(0.45, 0.65))[kind]
    colour = paint(rng.uniform(0.05, 0.12), rng.uniform(0.1, 0.5), rng.uniform(0.3, 0.8)) if kind == 0 else _metal(rng)
    b.solid(
        Shape.BOX,
        pose,
        (0, 0, high),
        (half_length, 0.05, high),
        Class.FENCE,
        b.instance(),
        colour,
        Material.FENCE,
        texture=(float(kind), 0, 0, 0),
    )


def wall(b: Builder, rng: Rng, pose: Pose, half_length: float) -> None:
    """Brick (0), stone (1) or rendered (2) garden wall with a coping, 1.2 to 2.6 m high."""
    i, kind = b.instance(), int(rng.integers(3))
    high = rng.uniform(0.6, 1.3)
    colour = (
        paint(rng.uniform(0.0, 0.05), rng.uniform(0.3, 0.6), rng.uniform(0.35, 0.6)),
        paint(rng.uniform(0.07, 0.14), rng.uniform(0.05, 0.25), rng.uniform(0.4, 0.7)),
        paint(rng.uniform(0.05, 0.16), rng.uniform(0.02, 0.2), rng.uniform(0.5, 0.85)),
    )[kind]
    b.solid(
        Shape.BOX,
        pose,
        (0, 0, high),
        (half_length, 0.14, high),
        Class.WALL,
        i,
        colour,
        Material.MASONRY,
        texture=(float(kind), 0, 0, 0),
    )
    b.solid(Shape.BOX, pose, (0, 0, 2 * high + 0.05), (half_length, 0.19, 0.06), Class.WALL, i, grey(0.55))
