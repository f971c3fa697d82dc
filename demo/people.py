"""Pedestrians and riders out of capsules and ellipsoids; every function appends one person to a
`Builder`."""

import numpy as np

from demo.classes import Class
from demo.colours import clothes, grey, paint, skin
from demo.primitives import Builder, Material, Pose, Shape

Rng = np.random.Generator


def pedestrian(b: Builder, rng: Rng, pose: Pose, scale: float | None = None) -> None:
    """A standing or walking person, 1.2 m (a child) to 1.9 m tall."""
    i, sem = b.instance(), Class.PERSON
    k = scale if scale is not None else (rng.uniform(0.66, 0.8) if rng.random() < 0.12 else rng.uniform(0.92, 1.1))
    top, legs, flesh = clothes(rng), clothes(rng) * 0.8, skin(rng)
    stride = float(rng.choice([0.04, 0.22, 0.32])) * k
    cloth = Material.CLOTH
    for side, step in ((-1, stride), (1, -stride)):
        foot, hip = (step, side * 0.10 * k, 0.06), (0.0, side * 0.09 * k, 0.90 * k)
        b.capsule(pose, foot, hip, 0.085 * k, sem, i, legs, cloth)
        b.capsule(pose, (step - 0.04, foot[1], 0.05), (step + 0.13, foot[1], 0.05), 0.05, sem, i, grey(0.1))
        hand = (-step * 0.9 + 0.05, side * 0.29 * k, 0.82 * k)
        b.capsule(pose, (0.0, side * 0.23 * k, 1.38 * k), hand, 0.056 * k, sem, i, top, cloth)
    coat = rng.random() < 0.35
    b.solid(
        Shape.ELLIPSOID,
        pose,
        (0, 0, (1.05 if coat else 1.17) * k),
        (0.165 * k, 0.245 * k, (0.50 if coat else 0.37) * k),
        sem,
        i,
        top,
        cloth,
    )
    _head(b, rng, pose, (0.02, 0.0, 1.62 * k), k, sem, i, flesh)
    if rng.random() < 0.3:
        b.solid(Shape.ELLIPSOID, pose, (-0.2 * k, 0, 1.2 * k), (0.11, 0.17, 0.24), sem, i, clothes(rng), cloth)


def rider(b: Builder, rng: Rng, pose: Pose, upright: bool = False) -> None:
    """A person in the saddle of a bicycle (leaning forward) or a motorcycle (`upright`, with a helmet)."""
    i, sem = b.instance(), Class.RIDER
    top, legs, flesh = clothes(rng), clothes(rng) * 0.8, skin(rng)
    cloth = Material.CLOTH
    seat = (-0.30, 0.90) if upright else (-0.18, 0.98)
    shoulder = (0.0, 1.42) if upright else (0.14, 1.48)
    grip = (0.40, 1.06)
    push = rng.uniform(-0.16, 0.16)
    for side in (-1, 1):
        y = side * (0.17 if upright else 0.10)
        knee = (seat[0] + 0.38, 0.70 + side * push * 0.5)
        foot = (0.0, 0.24 + side * push)
        b.capsule(pose, (seat[0], y, seat[1]), (knee[0], y, knee[1]), 0.085, sem, i, legs, cloth)
        b.capsule(pose, (knee[0], y, knee[1]), (foot[0], y, foot[1]), 0.07, sem, i, legs, cloth)
        b.capsule(
            pose,
            (shoulder[0], side * 0.20, shoulder[1] - 0.04),
            (grip[0], side * 0.24, grip[1]),
            0.055,
            sem,
            i,
            top,
            cloth,
        )
    b.capsule(pose, (seat[0], 0, seat[1] + 0.08), (shoulder[0], 0, shoulder[1] - 0.08), 0.185, sem, i, top, cloth)
    head = (shoulder[0] + 0.07, 0.0, shoulder[1] + 0.22)
    if upright or rng.random() < 0.5:
        shell = paint(rng.random(), rng.uniform(0, 0.8), rng.uniform(0.15, 0.9))
        b.solid(Shape.ELLIPSOID, pose, (head[0] - 0.02, 0, head[2] + 0.06), (0.15, 0.125, 0.12), sem, i, shell)
    _head(b, rng, pose, head, 1.0, sem, i, flesh)


def _head(
    b: Builder,
    rng: Rng,
    pose: Pose,
    at: tuple[float, float, float],
    k: float,
    sem: int,
    i: int,
    flesh: np.ndarray,
) -> None:
    b.solid(Shape.ELLIPSOID, pose, at, (0.105 * k, 0.085 * k, 0.135 * k), sem, i, flesh)
    hair = paint(rng.uniform(0.04, 0.1), rng.uniform(0, 0.6), rng.uniform(0.05, 0.5))
    b.solid(Shape.ELLIPSOID, pose, (at[0] - 0.03, 0, at[2] + 0.05), (0.11 * k, 0.095 * k, 0.11 * k), sem, i, hair)
