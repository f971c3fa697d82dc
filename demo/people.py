"""Pedestrians and riders out of capsules and ellipsoids.

Every function draws one person at random and adds it to a builder.
"""

import numpy as np

from demo.classes import Class
from demo.colours import F64, draw_clothing_colour, draw_skin_colour, grey, hsv
from demo.primitives import Material, ObjectBuilder, Pose, SceneBuilder, Shape, Vector

Rng = np.random.Generator
_CLOTH = Material.CLOTH


def add_pedestrian(builder: SceneBuilder, rng: Rng, pose: Pose) -> None:
    """Adds a standing or walking person of 1.2 m (a child) to 1.9 m."""
    obj = builder.new_object(pose, Class.PERSON)
    k = rng.uniform(0.66, 0.8) if rng.random() < 0.12 else rng.uniform(0.92, 1.1)
    top, legs, skin = draw_clothing_colour(rng), draw_clothing_colour(rng) * 0.8, draw_skin_colour(rng)
    stride = float(rng.choice([0.04, 0.22, 0.32])) * k
    for side, step in ((-1, stride), (1, -stride)):
        foot, hip = (step, side * 0.10 * k, 0.06), (0.0, side * 0.09 * k, 0.90 * k)
        obj.add_capsule(foot, hip, 0.085 * k, legs, _CLOTH)
        obj.add_capsule((step - 0.04, foot[1], 0.05), (step + 0.13, foot[1], 0.05), 0.05, grey(0.1))
        hand = (-step * 0.9 + 0.05, side * 0.29 * k, 0.82 * k)
        obj.add_capsule((0.0, side * 0.23 * k, 1.38 * k), hand, 0.056 * k, top, _CLOTH)
    coat = rng.random() < 0.35
    torso = (0.165 * k, 0.245 * k, (0.50 if coat else 0.37) * k)
    obj.add_solid(Shape.ELLIPSOID, (0, 0, (1.05 if coat else 1.17) * k), torso, top, _CLOTH)
    _add_head(obj, rng, (0.02, 0.0, 1.62 * k), k, skin)
    if rng.random() < 0.3:
        bag = (-0.2 * k, 0, 1.2 * k)
        obj.add_solid(Shape.ELLIPSOID, bag, (0.11, 0.17, 0.24), draw_clothing_colour(rng), _CLOTH)


def add_rider(builder: SceneBuilder, rng: Rng, pose: Pose, upright: bool = False) -> None:
    """Adds the rider of a bicycle, who leans forward, or of a motorcycle (`upright`, with a helmet)."""
    obj = builder.new_object(pose, Class.RIDER)
    top, legs, skin = draw_clothing_colour(rng), draw_clothing_colour(rng) * 0.8, draw_skin_colour(rng)
    seat = (-0.30, 0.90) if upright else (-0.18, 0.98)
    shoulder = (0.0, 1.42) if upright else (0.14, 1.48)
    grip = (0.40, 1.06)
    pedal = rng.uniform(-0.16, 0.16)
    for side in (-1, 1):
        y = side * (0.17 if upright else 0.10)
        knee = (seat[0] + 0.38, y, 0.70 + side * pedal * 0.5)
        obj.add_capsule((seat[0], y, seat[1]), knee, 0.085, legs, _CLOTH)
        obj.add_capsule(knee, (0.0, y, 0.24 + side * pedal), 0.07, legs, _CLOTH)
        hand = (grip[0], side * 0.24, grip[1])
        obj.add_capsule((shoulder[0], side * 0.20, shoulder[1] - 0.04), hand, 0.055, top, _CLOTH)
    obj.add_capsule((seat[0], 0, seat[1] + 0.08), (shoulder[0], 0, shoulder[1] - 0.08), 0.185, top, _CLOTH)
    head = (shoulder[0] + 0.07, 0.0, shoulder[1] + 0.22)
    if upright or rng.random() < 0.5:
        helmet = hsv(rng.random(), rng.uniform(0, 0.8), rng.uniform(0.15, 0.9))
        obj.add_solid(Shape.ELLIPSOID, (head[0] - 0.02, 0, head[2] + 0.06), (0.15, 0.125, 0.12), helmet)
    _add_head(obj, rng, head, 1.0, skin)


def _add_head(obj: ObjectBuilder, rng: Rng, centre: Vector, scale: float, skin: F64) -> None:
    obj.add_solid(Shape.ELLIPSOID, centre, (0.105 * scale, 0.085 * scale, 0.135 * scale), skin)
    hair = hsv(rng.uniform(0.04, 0.1), rng.uniform(0, 0.6), rng.uniform(0.05, 0.5))
    half = (0.11 * scale, 0.095 * scale, 0.11 * scale)
    obj.add_solid(Shape.ELLIPSOID, (centre[0] - 0.03, 0, centre[2] + 0.05), half, hair)
