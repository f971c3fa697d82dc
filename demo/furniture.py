"""Roadside objects: poles, lamps, signals, signs, trees, bushes, hedges, fences and walls.

Every function draws one object at random and adds it to a builder; a sign and its pole are two objects. In the frame
of a pole, left (+y) points at the road.
"""

import numpy as np

from demo.classes import Class
from demo.colours import F64, grey, hsv, rgb
from demo.domain import Domain
from demo.primitives import Material, Pose, SceneBuilder, Shape

Rng = np.random.Generator
_SIGN_COLOURS = (
    rgb(0.78, 0.10, 0.12),
    rgb(0.10, 0.25, 0.68),
    rgb(0.93, 0.76, 0.12),
    rgb(0.10, 0.45, 0.25),
    rgb(0.90, 0.90, 0.88),
)


def _draw_metal_colour(rng: Rng) -> F64:
    if rng.random() < 0.7:
        return grey(rng.uniform(0.2, 0.68))
    return hsv(rng.uniform(0.05, 0.4), rng.uniform(0.1, 0.4), rng.uniform(0.15, 0.4))


def _draw_leaf_colour(rng: Rng, domain: Domain) -> F64:
    return hsv(rng.uniform(*domain.leaf_hue), rng.uniform(*domain.leaf_saturation), rng.uniform(0.22, 0.5))


def add_street_lamp(builder: SceneBuilder, rng: Rng, pose: Pose) -> None:
    """Adds a street lamp of 4.5 to 8.5 m, often with an arm over the road."""
    obj = builder.new_object(pose, Class.POLE)
    height, colour, r = rng.uniform(4.5, 8.5), _draw_metal_colour(rng), rng.uniform(0.055, 0.10)
    obj.add_capsule((0, 0, 0), (0, 0, height), r, colour)
    obj.add_capsule((0, 0, 0), (0, 0, 0.7), r * 1.6, colour)
    if rng.random() < 0.7:
        arm = rng.uniform(0.9, 2.2)
        obj.add_capsule((0, 0, height), (0, arm, height + 0.35), r * 0.6, colour)
        obj.add_solid(Shape.BOX, (0, arm + 0.25, height + 0.35), (0.13, 0.35, 0.06), grey(0.5))
    else:
        obj.add_solid(Shape.ELLIPSOID, (0, 0, height + 0.15), (0.22, 0.22, 0.28), grey(0.8))


def add_utility_pole(builder: SceneBuilder, rng: Rng, pose: Pose) -> None:
    """Adds a wooden or concrete utility pole of 7 to 10 m with a cross arm."""
    obj = builder.new_object(pose, Class.POLE)
    height, colour = rng.uniform(7, 10), hsv(0.08, rng.uniform(0.05, 0.4), rng.uniform(0.3, 0.55))
    obj.add_capsule((0, 0, 0), (0, 0, height), rng.uniform(0.11, 0.16), colour, Material.BARK)
    obj.add_capsule((0, -1.0, height - 0.6), (0, 1.0, height - 0.6), 0.06, colour)


def add_bollards(builder: SceneBuilder, rng: Rng, pose: Pose) -> None:
    """Adds a row of three to six bollards along the kerb, each an object."""
    colour, gap = _draw_metal_colour(rng), rng.uniform(1.2, 1.8)
    for k in range(int(rng.integers(3, 7))):
        builder.new_object(pose, Class.POLE).add_capsule((k * gap, 0, 0), (k * gap, 0, 0.85), 0.07, colour)


def add_traffic_light(builder: SceneBuilder, rng: Rng, pose: Pose) -> None:
    """Adds a pole with signal heads that face -x and +x, sometimes with a mast arm over the road."""
    pole = builder.new_object(pose, Class.POLE)
    arm = rng.uniform(2.5, 4.0) if rng.random() < 0.35 else 0.0
    height, colour = (5.4 if arm else rng.uniform(2.9, 3.4)), _draw_metal_colour(rng)
    pole.add_capsule((0, 0, 0), (0, 0, height), 0.075, colour)
    if arm:
        pole.add_capsule((0, 0, height), (0, arm, height + 0.2), 0.06, colour)
        _add_signal_head(builder, rng, pose.moved(0.0, arm - 0.15, height - 0.15))
    _add_signal_head(builder, rng, pose.moved(0.0, 0.24, min(height, 3.3) - 0.55))


def _add_signal_head(builder: SceneBuilder, rng: Rng, pose: Pose) -> None:
    colour = grey(rng.uniform(0.04, 0.2)) if rng.random() < 0.75 else rgb(0.75, 0.6, 0.1)
    obj = builder.new_object(pose, Class.TRAFFIC_LIGHT)
    texture = (float(rng.integers(3)), 0.0, 0.0, 0.0)
    obj.add_solid(Shape.BOX, (0, 0, 0), (0.15, 0.17, 0.47), colour, Material.SIGNAL, texture=texture)


def add_sign(builder: SceneBuilder, rng: Rng, pose: Pose) -> None:
    """Adds one or two traffic signs on a thin pole, which face along the street."""
    pole = builder.new_object(pose, Class.POLE)
    large = rng.random() < 0.15
    height = rng.uniform(2.9, 3.5) if large else rng.uniform(2.2, 3.0)
    pole.add_capsule((0, 0, 0), (0, 0, height), 0.045, _draw_metal_colour(rng))
    yaw, z = rng.uniform(-0.35, 0.35) + (np.pi if rng.random() < 0.5 else 0.0), height
    for _ in range(1 if rng.random() < 0.65 else 2):
        colour = int(rng.integers(len(_SIGN_COLOURS)))
        kind = 3 if large else int(rng.integers(3))
        size = rng.uniform(0.30, 0.42)
        shape, half = (
            (Shape.ELLIPSOID, (0.03, size, size)),
            (Shape.WEDGE, (0.03, size * 1.1, size)),
            (Shape.BOX, (0.03, size * 0.9, size * 1.1)),
            (Shape.BOX, (0.04, 1.0, 0.65)),
        )[kind]
        z -= half[2]
        builder.new_object(pose, Class.TRAFFIC_SIGN).add_solid(
            shape,
            (-0.08 * float(np.cos(yaw)), 0, z),
            half,
            _SIGN_COLOURS[colour],
            Material.SIGN,
            taper=(0.0, 0.97) if kind == 1 else (0.0, 0.0),
            texture=(float(kind), float(colour), float(rng.random()), 0),
            yaw=yaw,
        )
        z -= half[2] + 0.05


def add_tree(builder: SceneBuilder, rng: Rng, pose: Pose, domain: Domain, scale: float = 1.0) -> None:
    """Adds a tree of 4 to 10 m, broad-leaved or, one in six, a conifer."""
    obj, leaf = builder.new_object(pose, Class.VEGETATION), _draw_leaf_colour(rng, domain)
    bark = hsv(rng.uniform(0.05, 0.11), rng.uniform(0.1, 0.5), rng.uniform(0.18, 0.42))
    if rng.random() < 1 / 6:
        r, tiers = rng.uniform(1.2, 1.9) * scale, int(rng.integers(3, 5))
        obj.add_capsule((0, 0, 0), (0, 0, 1.2), 0.14, bark, Material.BARK)
        for k in range(tiers):
            w = r * (1 - 0.75 * k / tiers)
            half = (w, w, r * 0.9)
            obj.add_solid(Shape.ELLIPSOID, (0, 0, 1.3 + k * r * 0.95), half, leaf * 0.8, Material.FOLIAGE)
        return
    trunk, r = rng.uniform(2.1, 3.4) * scale, rng.uniform(1.1, 2.4) * scale
    top_x, top_y = rng.uniform(-0.25, 0.25, 2)
    radius = rng.uniform(0.09, 0.2) * scale
    obj.add_capsule((0, 0, 0), (top_x, top_y, trunk + 0.4 * r), radius, bark, Material.BARK)
    for _ in range(2):
        x, y = rng.uniform(-0.6, 0.6, 2) * r
        obj.add_capsule((top_x, top_y, trunk), (x, y, trunk + 0.7 * r), 0.06 * scale, bark, Material.BARK)
    for k in range(int(rng.integers(6, 10))):
        x, y = rng.uniform(-0.8, 0.8, 2) * r * (k > 0)
        w = r * (rng.uniform(0.4, 0.68) if k else 0.9)
        z = trunk + r * (rng.uniform(0.3, 1.5) if k else 0.85)
        colour = leaf * rng.uniform(0.75, 1.2)
        half = (w, w, w * rng.uniform(0.7, 1.0))
        obj.add_solid(Shape.ELLIPSOID, (x, y, z), half, colour, Material.FOLIAGE)


def add_bush(builder: SceneBuilder, rng: Rng, pose: Pose, domain: Domain) -> None:
    """Adds a shrub of 0.6 to 2 m, one to three ellipsoids of leaves."""
    obj, leaf = builder.new_object(pose, Class.VEGETATION), _draw_leaf_colour(rng, domain)
    r = rng.uniform(0.4, 1.1)
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(-0.7, 0.7, 2) * r
        w = r * rng.uniform(0.6, 1.0)
        colour = leaf * rng.uniform(0.8, 1.15)
        obj.add_solid(Shape.ELLIPSOID, (x, y, w * 0.6), (w, w, w * 0.95), colour, Material.FOLIAGE)


def add_hedge(builder: SceneBuilder, rng: Rng, pose: Pose, half_length: float, domain: Domain) -> None:
    """Adds a trimmed hedge of 1 to 1.9 m."""
    half_height = rng.uniform(0.5, 0.95)
    obj, colour = builder.new_object(pose, Class.VEGETATION), _draw_leaf_colour(rng, domain)
    half = (half_length, 0.35, half_height)
    obj.add_solid(Shape.WEDGE, (0, 0, half_height), half, colour, Material.HEDGE, taper=(0.02, 0.2))


def add_fence(builder: SceneBuilder, rng: Rng, pose: Pose, half_length: float) -> None:
    """Adds a fence of 0.9 to 2 m: pickets (0), mesh (1) or railing (2)."""
    kind = int(rng.integers(3))
    half_height = (rng.uniform(0.55, 0.95), rng.uniform(0.6, 1.0), rng.uniform(0.45, 0.65))[kind]
    if kind == 0:
        colour = hsv(rng.uniform(0.05, 0.12), rng.uniform(0.1, 0.5), rng.uniform(0.3, 0.8))
    else:
        colour = _draw_metal_colour(rng)
    obj = builder.new_object(pose, Class.FENCE)
    half, texture = (half_length, 0.05, half_height), (float(kind), 0.0, 0.0, 0.0)
    obj.add_solid(Shape.BOX, (0, 0, half_height), half, colour, Material.FENCE, texture=texture)


def add_wall(builder: SceneBuilder, rng: Rng, pose: Pose, half_length: float) -> None:
    """Adds a garden wall of 1.2 to 2.6 m with a coping: brick (0), stone (1) or rendered (2)."""
    obj, kind = builder.new_object(pose, Class.WALL), int(rng.integers(3))
    half_height = rng.uniform(0.6, 1.3)
    colour = (
        hsv(rng.uniform(0.0, 0.05), rng.uniform(0.3, 0.6), rng.uniform(0.35, 0.6)),
        hsv(rng.uniform(0.07, 0.14), rng.uniform(0.05, 0.25), rng.uniform(0.4, 0.7)),
        hsv(rng.uniform(0.05, 0.16), rng.uniform(0.02, 0.2), rng.uniform(0.5, 0.85)),
    )[kind]
    half, texture = (half_length, 0.14, half_height), (float(kind), 0.0, 0.0, 0.0)
    obj.add_solid(Shape.BOX, (0, 0, half_height), half, colour, Material.MASONRY, texture=texture)
    obj.add_solid(Shape.BOX, (0, 0, 2 * half_height + 0.05), (half_length, 0.19, 0.06), grey(0.55))
