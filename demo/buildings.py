"""Buildings: a textured block with a roof, and attachments of its front (balconies, awnings).

Every function draws one object at random and adds it to a builder. The front faces +y of the object's frame.
"""

import numpy as np

from demo.classes import Class
from demo.colours import F64, grey, hsv, rgb
from demo.domain import STYLES, Domain
from demo.primitives import Material, ObjectBuilder, Pose, SceneBuilder, Shape

Rng = np.random.Generator


def _draw_style(rng: Rng, domain: Domain) -> int:
    return int(rng.choice(len(STYLES), p=np.array(domain.styles) / sum(domain.styles)))


def _draw_facade_colour(rng: Rng, style: str, domain: Domain) -> F64:
    value = rng.uniform(*domain.facade_value)
    if style == "brick":
        return hsv(rng.uniform(0.0, 0.06), rng.uniform(0.3, 0.62), value * 0.75)
    if style == "stone":
        return hsv(rng.uniform(0.07, 0.14), rng.uniform(0.05, 0.22), value * 0.9)
    if style == "glass":
        return hsv(rng.uniform(0.5, 0.62), rng.uniform(0.05, 0.25), value * 0.7)
    return hsv(rng.uniform(*domain.facade_hue), rng.uniform(0.03, 0.35), value)


def add_building(
    builder: SceneBuilder, rng: Rng, pose: Pose, half_width: float, half_depth: float, domain: Domain, detailed: bool
) -> None:
    """Adds a building whose base is centred at `pose`; `detailed` adds balconies and awnings."""
    obj = builder.new_object(pose, Class.BUILDING)
    style_index = _draw_style(rng, domain)
    style = STYLES[style_index]
    storey = rng.uniform(2.8, 3.7)
    floors = max(2, round(rng.uniform(*domain.building_height) / storey))
    height = floors * storey + rng.uniform(0.2, 0.8)
    bays = max(2, round(2 * half_width / rng.uniform(1.9, 3.6)))
    shop = rng.random() < 0.45
    colour = _draw_facade_colour(rng, style, domain)
    texture = (2 * half_width / bays, storey, float(style_index), float(shop))
    block = (half_width, half_depth, height / 2)
    obj.add_solid(Shape.BOX, (0, 0, height / 2), block, colour, Material.FACADE, texture=texture)
    if style in ("plaster", "brick", "stone") and rng.random() < domain.pitched_roof:
        _add_pitched_roof(obj, rng, half_width, half_depth, height)
    else:
        _add_flat_roof(obj, rng, half_width, half_depth, height, colour)
    if detailed:
        if style in ("plaster", "panel") and rng.random() < 0.5:
            _add_balconies(obj, rng, half_width, half_depth, floors, storey, bays, colour)
        if shop:
            _add_awnings(obj, rng, half_width, half_depth, storey, bays)


def _add_pitched_roof(obj: ObjectBuilder, rng: Rng, half_width: float, half_depth: float, height: float) -> None:
    half = rng.uniform(1.0, 2.2)
    tiles = hsv(rng.uniform(0.0, 0.06), rng.uniform(0.1, 0.65), rng.uniform(0.22, 0.5))
    hip = rng.uniform(0.2, 0.6) if rng.random() < 0.4 else 0.0
    extent = (half_width + 0.1, half_depth + 0.35, half)
    obj.add_solid(Shape.WEDGE, (0, 0, height + half), extent, tiles, Material.ROOF, taper=(hip, 0.9))
    if rng.random() < 0.7:
        chimney = (rng.uniform(-0.6, 0.6) * half_width, 0.15 * half_depth, height + 2 * half)
        obj.add_solid(Shape.BOX, chimney, (0.35, 0.3, 0.9), tiles * 0.8)


def _add_flat_roof(
    obj: ObjectBuilder, rng: Rng, half_width: float, half_depth: float, height: float, colour: F64
) -> None:
    extent = (half_width + 0.12, half_depth + 0.18, 0.22)
    obj.add_solid(Shape.BOX, (0, 0, height), extent, colour * rng.uniform(0.5, 1.1))
    if rng.random() < 0.5:
        x, width = rng.uniform(-0.4, 0.4) * half_width, rng.uniform(0.2, 0.5) * half_width
        obj.add_solid(Shape.BOX, (x, 0, height + 1.2), (width, half_depth * 0.5, 1.2), colour * 0.8)


def _add_balconies(
    obj: ObjectBuilder,
    rng: Rng,
    half_width: float,
    half_depth: float,
    floors: int,
    storey: float,
    bays: int,
    colour: F64,
) -> None:
    rail = grey(rng.uniform(0.1, 0.5)) if rng.random() < 0.6 else colour * 0.9
    for bay in rng.choice(bays, size=min(bays, int(rng.integers(1, 4))), replace=False):
        x = -half_width + (float(bay) + 0.5) * 2 * half_width / bays
        for floor in range(1, min(floors, 6)):
            z = floor * storey + 0.1
            obj.add_solid(Shape.BOX, (x, half_depth + 0.45, z), (0.95, 0.5, 0.08), grey(0.6))
            obj.add_solid(Shape.BOX, (x, half_depth + 0.92, z + 0.5), (0.95, 0.04, 0.45), rail)


def _add_awnings(obj: ObjectBuilder, rng: Rng, half_width: float, half_depth: float, storey: float, bays: int) -> None:
    colour = hsv(rng.random(), rng.uniform(0.2, 0.75), rng.uniform(0.35, 0.85))
    for bay in range(bays):
        if rng.random() < 0.4:
            centre = (-half_width + (bay + 0.5) * 2 * half_width / bays, half_depth, storey * 0.86)
            half = (half_width / bays * 0.9, rng.uniform(0.8, 1.2), 0.28)
            obj.add_solid(Shape.WEDGE, centre, half, colour, Material.CLOTH, taper=(0.0, 0.9))


def add_distant_building(builder: SceneBuilder, rng: Rng, pose: Pose, half_width: float, domain: Domain) -> None:
    """Adds a block without details, on average taller than the buildings of the street."""
    style = _draw_style(rng, domain)
    height = rng.uniform(*domain.building_height) * rng.uniform(0.9, 1.7)
    colour = _draw_facade_colour(rng, STYLES[style], domain) * rgb(0.95, 0.97, 1.0)
    texture = (rng.uniform(2.2, 3.6), rng.uniform(2.9, 3.6), float(style), 0.0)
    obj = builder.new_object(pose, Class.BUILDING)
    half = (half_width, 6.0, height / 2)
    obj.add_solid(Shape.BOX, (0, 0, height / 2), half, colour, Material.FACADE, texture=texture)
