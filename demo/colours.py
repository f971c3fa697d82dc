"""Colours as linear albedo, and the paint boxes that objects draw from."""

import colorsys

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
DISPLAY_GAMMA = 2.2


def linear(rgb: tuple[float, float, float]) -> F64:
    """Linear albedo (3,) of a display colour with channels in 0..1."""
    return np.clip(np.array(rgb, np.float64), 0, 1) ** DISPLAY_GAMMA


def paint(hue: float, saturation: float, value: float) -> F64:
    """Linear albedo (3,) of an HSV display colour; the hue is cyclic in 1."""
    return linear(colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0), 1), min(max(value, 0), 1)))


def grey(value: float) -> F64:
    return linear((value, value, value))


RUBBER = grey(0.13)
CHROME = grey(0.62)
GLASS = linear((0.16, 0.20, 0.24))


def car_paint(rng: np.random.Generator) -> F64:
    """Mostly white, grey and black, one car in three coloured."""
    if rng.random() < 0.66:
        return grey(float(rng.choice([0.10, 0.22, 0.38, 0.55, 0.72, 0.88]) * rng.uniform(0.9, 1.08)))
    return paint(
        float(rng.choice([0.0, 0.02, 0.09, 0.33, 0.58, 0.62])),
        rng.uniform(0.45, 0.85),
        rng.uniform(0.25, 0.75),
    )


def clothes(rng: np.random.Generator) -> F64:
    """Mostly dark and dull, now and then bright."""
    if rng.random() < 0.7:
        return paint(rng.random(), rng.uniform(0.0, 0.35), rng.uniform(0.10, 0.5))
    return paint(rng.random(), rng.uniform(0.4, 0.85), rng.uniform(0.4, 0.9))


def skin(rng: np.random.Generator) -> F64:
    return linear((0.88, 0.68, 0.55)) * rng.uniform(0.25, 1.0)


def column(colour: NDArray[np.floating]) -> NDArray[np.float32]:
    """The colour (3,) as a float32 column (3, 1), which broadcasts over pixels lying in rows."""
    return np.asarray(colour, np.float32).reshape(3, 1)
