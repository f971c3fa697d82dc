"""A random street scene: ground plan, objects, lighting and camera position."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from demo.colours import F64, grey, hsv, rgb
from demo.domain import Domain
from demo.layout import FIRST_OBJECT_INSTANCE, LANE, Layout, draw_layout
from demo.placement import place_objects
from demo.primitives import Primitives, SceneBuilder

Rng = np.random.Generator


@dataclass(frozen=True)
class Lighting:
    """Light sources and atmosphere; colours are linear (3,).

    Attributes:
        towards_sun: (3,) unit vector.
        sun, sky, bounce: irradiance of direct sunlight, from above and from below.
        zenith, horizon: radiance of the sky.
        cloud: cloud cover, 0..1.
        haze: extinction per metre.
        cloud_seed: shifts the noise of the clouds.
    """

    towards_sun: F64
    sun: F64
    sky: F64
    bounce: F64
    zenith: F64
    horizon: F64
    cloud: float
    haze: float
    cloud_seed: float


@dataclass(frozen=True)
class GroundStyle:
    """Appearance of the ground; colours are linear albedos (3,).

    Attributes:
        asphalt, paving, grass: road, sidewalks and terrain.
        marking, centre_marking: road markings and the centre line.
        litter_colour, litter: fallen leaves and the share of the ground under them, 0..1.
        wear: wear of asphalt and markings, 0..1.
        slab: side of a paving slab, metres.
        seed: shifts the noise.
    """

    asphalt: F64
    paving: F64
    grass: F64
    marking: F64
    centre_marking: F64
    litter_colour: F64
    litter: float
    wear: float
    slab: float
    seed: float


@dataclass(frozen=True)
class Scene:
    """All that determines an image besides the camera; `eye` (3,) is the camera position in metres."""

    primitives: Primitives
    layout: Layout
    lighting: Lighting
    ground: GroundStyle
    eye: NDArray[np.float64]


def draw_scene(rng: Rng, domain: Domain, yaw_deg: float) -> Scene:
    """Draws a random street of a domain.

    Args:
        rng: source of all random numbers.
        domain: distributions.
        yaw_deg: heading of the panorama at whose seam and window edges objects are placed.
    """
    layout = draw_layout(rng)
    lane = int(rng.integers(layout.lanes))
    eye = np.array([0.0, -(lane + rng.uniform(0.35, 0.65)) * LANE, rng.uniform(*domain.camera_height)])
    lighting = _draw_lighting(rng, domain)
    ground = _draw_ground(rng, domain)
    builder = SceneBuilder(FIRST_OBJECT_INSTANCE)
    place_objects(builder, rng, layout, domain, eye, yaw_deg)
    primitives = builder.build()
    if rng.random() < domain.low_contrast:
        primitives = _reduce_contrast(rng, primitives, ground)
    return Scene(primitives, layout, lighting, ground, eye)


def _draw_lighting(rng: Rng, domain: Domain) -> Lighting:
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(*domain.sun_elevation))
    towards = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    overcast = rng.random() < domain.overcast
    low = 1 - min(np.degrees(elevation) / 40, 1.0)  # a low sun is weaker and warmer
    strength = max(rng.uniform(-0.3, 0.25), 0.0) if overcast else rng.uniform(1.2, 2.0) * (1 - 0.3 * low)
    sun = strength * np.array([1.0, 1 - 0.12 * low - 0.03, 1 - 0.4 * low - 0.08])
    if overcast:
        horizon, zenith = grey(rng.uniform(0.78, 0.95)), grey(rng.uniform(0.62, 0.9))
        sky = rng.uniform(0.9, 1.3) * np.array([0.97, 1.0, 1.03])
    else:
        zenith = hsv(rng.uniform(0.56, 0.61), rng.uniform(0.3, 0.68), rng.uniform(0.6, 0.9))
        horizon = hsv(rng.uniform(0.55, 0.6), rng.uniform(0.02, 0.25), rng.uniform(0.82, 1.0))
        horizon = horizon * (1 - 0.3 * low * np.array([0.0, 0.4, 1.0]))
        sky = rng.uniform(0.36, 0.6) * np.array([0.92, 1.0, 1.12])
    return Lighting(
        towards_sun=towards,
        sun=sun,
        sky=sky,
        bounce=sky * 0.35 + 0.06 * sun,
        zenith=zenith,
        horizon=horizon,
        cloud=float(rng.uniform(0.1, 0.5) if overcast else rng.uniform(0, 0.8)),
        haze=float(rng.uniform(*domain.haze)),
        cloud_seed=float(rng.uniform(0, 100)),
    )


def _draw_ground(rng: Rng, domain: Domain) -> GroundStyle:
    asphalt = rgb(1.0, 1.0, rng.uniform(0.94, 1.06)) * grey(rng.uniform(0.30, 0.5))
    if rng.random() < 0.3:  # paving hardly different from the road
        paving = asphalt * rng.uniform(1.0, 1.35)
    else:
        paving = hsv(rng.uniform(0.03, 0.13), rng.uniform(0.02, 0.2), rng.uniform(0.45, 0.75))
    yellow = rng.random() < domain.yellow_centre_line
    return GroundStyle(
        asphalt=asphalt,
        paving=paving,
        grass=hsv(rng.uniform(*domain.grass_hue), rng.uniform(0.3, 0.6), rng.uniform(0.3, 0.5)),
        marking=grey(rng.uniform(0.7, 0.9)),
        centre_marking=rgb(0.85, 0.66, 0.18) if yellow else grey(0.82),
        litter_colour=hsv(rng.uniform(0.04, 0.13), rng.uniform(0.5, 0.8), rng.uniform(0.35, 0.65)),
        litter=float(rng.uniform(*domain.leaf_litter)),
        wear=float(rng.uniform(0.1, 0.7)),
        slab=float(rng.choice([0.4, 0.6, 1.0])),
        seed=float(rng.uniform(0, 100)),
    )


def _reduce_contrast(rng: Rng, primitives: Primitives, ground: GroundStyle) -> Primitives:
    """Returns the primitives with colours blended towards the ground's."""
    tone = (ground.asphalt + ground.paving) / 2 * rng.uniform(0.8, 1.6)
    weight = rng.uniform(0.3, 0.62)
    return replace(primitives, colour=(primitives.colour * (1 - weight) + tone * weight).astype(np.float32))
