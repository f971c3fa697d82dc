"""Linear albedos: conversion from display colours, and random colours of objects."""

import colorsys

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
DISPLAY_GAMMA = 2.2


def rgb(red: float, green: float, blue: float) -> F64:
    """Returns the linear albedo (3,) of a display colour with channels in 0..1."""
    return np.clip(np.array((red, green, blue), np.float64), 0, 1) ** DISPLAY_GAMMA


def hsv(hue: float, saturation: float, value: float) -> F64:
    """Returns the linear albedo (3,) of an HSV display colour; the hue is cyclic in 1."""
    return rgb(*colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0), 1), min(max(value, 0), 1)))


def grey(value: float) -> F64:
    """Returns the linear albedo (3,) of a grey display value in 0..1."""
    return rgb(value, value, value)


def column(colour: NDArray[np.floating]) -> NDArray[np.float32]:
    """Returns a colour (3,) as a float32 column (3, 1), which broadcasts over (3, n) pixels."""
    return np.asarray(colour, np.float32).reshape(3, 1)


RUBBER = grey(0.13)
CHROME = grey(0.62)
GLASS = rgb(0.16, 0.20, 0.24)


def draw_car_colour(rng: np.random.Generator) -> F64:
    """Draws a car colour: white, grey or black for two cars in three."""
    if rng.random() < 0.66:
        return grey(float(rng.choice([0.10, 0.22, 0.38, 0.55, 0.72, 0.88]) * rng.uniform(0.9, 1.08)))
    hue = float(rng.choice([0.0, 0.02, 0.09, 0.33, 0.58, 0.62]))
    return hsv(hue, rng.uniform(0.45, 0.85), rng.uniform(0.25, 0.75))


def draw_clothing_colour(rng: np.random.Generator) -> F64:
    """Draws a clothing colour, mostly dark and unsaturated."""
    if rng.random() < 0.7:
        return hsv(rng.random(), rng.uniform(0.0, 0.35), rng.uniform(0.10, 0.5))
    return hsv(rng.random(), rng.uniform(0.4, 0.85), rng.uniform(0.4, 0.9))


def draw_skin_colour(rng: np.random.Generator) -> F64:
    """Draws a skin colour."""
    return rgb(0.88, 0.68, 0.55) * rng.uniform(0.25, 1.0)
