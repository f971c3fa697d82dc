"""A whole street from a random generator: ground plan, objects, light, and where the camera stands."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.colours import F64, grey, linear, paint
from demo.domain import Domain
from demo.layout import FIRST_FREE_INSTANCE, Layout, draw_layout
from demo.population import populate
from demo.primitives import Builder, Primitives

Rng = np.random.Generator


@dataclass(frozen=True)
class Light:
    """`towards_sun` (3,) unit vector; `sun`, `sky`, `bounce` (3,) linear irradiance of the direct
    light, from above and from below; `zenith`, `horizon` (3,) linear sky colours; `cloud` 0..1;
    `haze` extinction per metre."""

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
    """Linear albedos (3,) and wear of the ground's materials; `wear` and `litter` are shares 0..1."""

    asphalt: F64
    paving: F64
    grass: F64
    paint: F64
    centre_paint: F64
    litter_colour: F64
    litter: float
    wear: float
    slab: float
    seed: float


@dataclass(frozen=True)
class Scene:
    """Everything that is seen; `eye` (3,) is the camera's position in metres."""

    primitives: Primitives
    layout: Layout
    light: Light
    ground: GroundStyle
    eye: NDArray[np.float64]


def draw_scene(rng: Rng, domain: Domain, yaw_deg: float) -> Scene:
    """A random street of `domain`; hard cases are set up for a panorama whose centre looks along
    `yaw_deg`."""
    layout = draw_layout(rng)
    lane = int(rng.integers(layout.lanes))
    eye = np.array([0.0, -(lane + rng.uniform(0.35, 0.65)) * 3.2, rng.uniform(*domain.camera_height)])
    light = _draw_light(rng, domain)
    ground = _draw_ground(rng, domain)
    builder = Builder(FIRST_FREE_INSTANCE)
    populate(builder, rng, layout, domain, eye, yaw_deg)
    primitives = builder.finish()
    if rng.random() < domain.drab:
        primitives = _drab(rng, primitives, ground)
    return Scene(primitives, layout, light, ground, eye)


def _draw_light(rng: Rng, domain: Domain) -> Light:
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
        zenith = paint(rng.uniform(0.56, 0.61), rng.uniform(0.3, 0.68), rng.uniform(0.6, 0.9))
        horizon = paint(rng.uniform(0.55, 0.6), rng.uniform(0.02, 0.25), rng.uniform(0.82, 1.0))
        horizon = horizon * (1 - 0.3 * low * np.array([0.0, 0.4, 1.0]))
        sky = rng.uniform(0.36, 0.6) * np.array([0.92, 1.0, 1.12])
    return Light(
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
    asphalt = linear((1.0, 1.0, rng.uniform(0.94, 1.06))) * grey(rng.uniform(0.30, 0.5))
    if rng.random() < 0.3:  # paving hardly different from the road
        paving = asphalt * rng.uniform(1.0, 1.35)
    else:
        paving = paint(rng.uniform(0.03, 0.13), rng.uniform(0.02, 0.2), rng.uniform(0.45, 0.75))
    yellow = rng.random() < domain.yellow_centre_line
    return GroundStyle(
        asphalt=asphalt,
        paving=paving,
        grass=paint(rng.uniform(*domain.grass_hue), rng.uniform(0.3, 0.6), rng.uniform(0.3, 0.5)),
        paint=grey(rng.uniform(0.7, 0.9)),
        centre_paint=linear((0.85, 0.66, 0.18)) if yellow else grey(0.82),
        litter_colour=paint(rng.uniform(0.04, 0.13), rng.uniform(0.5, 0.8), rng.uniform(0.35, 0.65)),
        litter=float(rng.uniform(*domain.leaf_litter)),
        wear=float(rng.uniform(0.1, 0.7)),
        slab=float(rng.choice([0.4, 0.6, 1.0])),
        seed=float(rng.uniform(0, 100)),
    )


def _drab(rng: Rng, primitives: Primitives, ground: GroundStyle) -> Primitives:
    """The same solids with colours pulled towards the ground's: outlines lose contrast."""
    tone = (ground.asphalt + ground.paving) / 2 * rng.uniform(0.8, 1.6)
    weight = rng.uniform(0.3, 0.62)
    colour = (primitives.colour * (1 - weight) + tone * weight).astype(np.float32)
    fields = {name: getattr(primitives, name) for name in primitives.__dataclass_fields__}
    return Primitives(**{**fields, "colour": colour})
