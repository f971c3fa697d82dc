"""Buildings: a textured block with a roof, and what sticks out of its front (balconies, awnings,
chimneys)."""

import numpy as np

from demo.classes import Class
from demo.colours import F64, grey, linear, paint
from demo.domain import STYLES, Domain
from demo.primitives import Builder, Material, Pose, Shape

Rng = np.random.Generator


def _facade_paint(rng: Rng, style: str, domain: Domain) -> F64:
    value = rng.uniform(*domain.facade_value)
    if style == "brick":
        return paint(rng.uniform(0.0, 0.06), rng.uniform(0.3, 0.62), value * 0.75)
    if style == "stone":
        return paint(rng.uniform(0.07, 0.14), rng.uniform(0.05, 0.22), value * 0.9)
    if style == "glass":
        return paint(rng.uniform(0.5, 0.62), rng.uniform(0.05, 0.25), value * 0.7)
    return paint(rng.uniform(*domain.facade_hue), rng.uniform(0.03, 0.35), value)


def building(
    b: Builder, rng: Rng, pose: Pose, half_width: float, half_depth: float, domain: Domain, detailed: bool
) -> None:
    """One building; in the frame of `pose` its front looks along +y, its foot's centre is the origin.

    `detailed` adds balconies and awnings, which only pay near the camera.
    """
    i, sem = b.instance(), Class.BUILDING
    style = STYLES[int(rng.choice(len(STYLES), p=np.array(domain.styles) / sum(domain.styles)))]
    storey = rng.uniform(2.8, 3.7)
    floors = max(2, round(rng.uniform(*domain.building_height) / storey))
    high = floors * storey + rng.uniform(0.2, 0.8)
    bays = max(2, round(2 * half_width / rng.uniform(1.9, 3.6)))
    period = 2 * half_width / bays
    shop = rng.random() < 0.45
    colour = _facade_paint(rng, style, domain)
    b.solid(
        Shape.BOX,
        pose,
        (0, 0, high / 2),
        (half_width, half_depth, high / 2),
        sem,
        i,
        colour,
        Material.FACADE,
        texture=(period, storey, float(STYLES.index(style)), float(shop)),
    )
    if style in ("plaster", "brick", "stone") and rng.random() < domain.pitched_roof:
        _pitched_roof(b, rng, pose, half_width, half_depth, high, i)
    else:
        _flat_roof(b, rng, pose, half_width, half_depth, high, i, colour)
    if detailed:
        if style in ("plaster", "panel") and rng.random() < 0.5:
            _balconies(b, rng, pose, half_width, half_depth, floors, storey, bays, i, colour)
        if shop:
            _awnings(b, rng, pose, half_width, half_depth, storey, bays, i)


def _pitched_roof(b: Builder, rng: Rng, pose: Pose, hw: float, hd: float, high: float, i: int) -> None:
    half = rng.uniform(1.0, 2.2)
    tiles = paint(rng.uniform(0.0, 0.06), rng.uniform(0.1, 0.65), rng.uniform(0.22, 0.5))
    hip = rng.uniform(0.2, 0.6) if rng.random() < 0.4 else 0.0
    b.solid(
        Shape.WEDGE,
        pose,
        (0, 0, high + half),
        (hw + 0.1, hd + 0.35, half),
        Class.BUILDING,
        i,
        tiles,
        Material.ROOF,
        taper=(hip, 0.9),
    )
    if rng.random() < 0.7:
        x = rng.uniform(-0.6, 0.6) * hw
        b.solid(Shape.BOX, pose, (x, 0.15 * hd, high + 2 * half), (0.35, 0.3, 0.9), Class.BUILDING, i, tiles * 0.8)


def _flat_roof(b: Builder, rng: Rng, pose: Pose, hw: float, hd: float, high: float, i: int, colour: F64) -> None:
    b.solid(
        Shape.BOX,
        pose,
        (0, 0, high),
        (hw + 0.12, hd + 0.18, 0.22),
        Class.BUILDING,
        i,
        colour * rng.uniform(0.5, 1.1),
    )
    if rng.random() < 0.5:
        x, w = rng.uniform(-0.4, 0.4) * hw, rng.uniform(0.2, 0.5) * hw
        b.solid(Shape.BOX, pose, (x, 0, high + 1.2), (w, hd * 0.5, 1.2), Class.BUILDING, i, colour * 0.8)


def _balconies(
    b: Builder,
    rng: Rng,
    pose: Pose,
    hw: float,
    hd: float,
    floors: int,
    storey: float,
    bays: int,
    i: int,
    colour: F64,
) -> None:
    rail = grey(rng.uniform(0.1, 0.5)) if rng.random() < 0.6 else colour * 0.9
    for bay in rng.choice(bays, size=min(bays, int(rng.integers(1, 4))), replace=False):
        x = -hw + (float(bay) + 0.5) * 2 * hw / bays
        for floor in range(1, min(floors, 6)):
            z = floor * storey + 0.1
            b.solid(Shape.BOX, pose, (x, hd + 0.45, z), (0.95, 0.5, 0.08), Class.BUILDING, i, grey(0.6))
            b.solid(Shape.BOX, pose, (x, hd + 0.92, z + 0.5), (0.95, 0.04, 0.45), Class.BUILDING, i, rail)


def _awnings(b: Builder, rng: Rng, pose: Pose, hw: float, hd: float, storey: float, bays: int, i: int) -> None:
    cloth = paint(rng.random(), rng.uniform(0.2, 0.75), rng.uniform(0.35, 0.85))
    for bay in range(bays):
        if rng.random() < 0.4:
            x = -hw + (bay + 0.5) * 2 * hw / bays
            b.solid(
                Shape.WEDGE,
                pose,
                (x, hd, storey * 0.86),
                (hw / bays * 0.9, rng.uniform(0.8, 1.2), 0.28),
                Class.BUILDING,
                i,
                cloth,
                Material.CLOTH,
                taper=(0.0, 0.9),
            )


def backdrop(b: Builder, rng: Rng, pose: Pose, half_width: float, domain: Domain) -> None:
    """A distant block that closes a view: never detailed, a little taller than the street."""
    i, style = b.instance(), int(rng.choice(len(STYLES), p=np.array(domain.styles) / sum(domain.styles)))
    high = rng.uniform(*domain.building_height) * rng.uniform(0.9, 1.7)
    colour = _facade_paint(rng, STYLES[style], domain) * linear((0.95, 0.97, 1.0))
    b.solid(
        Shape.BOX,
        pose,
        (0, 0, high / 2),
        (half_width, 6.0, high / 2),
        Class.BUILDING,
        i,
        colour,
        Material.FACADE,
        texture=(rng.uniform(2.2, 3.6), rng.uniform(2.9, 3.6), float(style), 0.0),
    )
