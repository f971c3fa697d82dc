"""The light that comes back along traced rays: texture, sun with shadows, sky light, reflections, haze."""

import numpy as np
from numpy.typing import NDArray

from demo import noise
from demo.colours import column
from demo.ground import ground_albedo
from demo.materials import look
from demo.raycast import MISS
from demo.scene import Light, Scene
from demo.shadow import ShadowMap
from demo.surface import describe, detail_at
from demo.trace import Traced

F32 = NDArray[np.float32]


class Shader:
    """Shades rays of one scene; `pixel_angle` (radians) decides which texture is too fine to show,
    `shadow_cells` is the resolution of the shadow map."""

    def __init__(self, scene: Scene, pixel_angle: float, shadow_cells: int) -> None:
        self._scene = scene
        self._pixel_angle = pixel_angle
        self._shadows = ShadowMap(scene.primitives, scene.eye, scene.light.towards_sun, shadow_cells)

    def __call__(self, traced: Traced) -> F32:
        """Radiance (3, n) of traced rays."""
        scene, light = self._scene, self._scene.light
        radiance = np.empty((3, len(traced.direction)), np.float32)
        distance, solid = traced.hits.distance, traced.hits.solid
        open_sky = np.isinf(distance)
        sky = np.nonzero(open_sky)[0]
        radiance[:, sky] = _sky(light, traced.direction[sky].T)

        seen = np.nonzero(~open_sky)[0]
        d, t = np.ascontiguousarray(traced.direction[seen].T), distance[seen]
        point = d * t + column(scene.eye)
        albedo, normal = np.empty_like(d), np.zeros_like(d)
        gloss, occlusion = np.zeros_like(t), np.ones_like(t)
        index = solid[seen]
        floor, body = np.nonzero(index == MISS)[0], np.nonzero(index != MISS)[0]
        x, y = point[0, floor], point[1, floor]
        slant = np.sqrt(np.abs(d[2, floor]))
        detail = detail_at(t[floor], self._pixel_angle) * slant
        albedo[:, floor] = ground_albedo(scene.layout, scene.ground, x, y, traced.semantic[seen[floor]], detail)
        normal[2, floor] = 1
        index = index[body]
        surface, normal[:, body] = describe(scene.primitives, index, point[:, body], t[body], self._pixel_angle)
        albedo[:, body], gloss[body] = look(scene.primitives.material[index], surface)
        occlusion[body] = np.clip(np.float32(0.55) + np.float32(0.35) * surface.height, 0.55, 1)

        sun = np.maximum(_dot(normal, column(light.towards_sun)), 0)
        if light.sun.max() > 0:
            shone = np.nonzero(sun > 0)[0]
            sun[shone] *= self._shadows.lit(point[:, shone], normal[:, shone])
        up = (np.float32(0.5) + np.float32(0.5) * normal[2]) * occlusion
        lit = column(light.sun) * sun + column(light.sky - light.bounce) * up + column(light.bounce) * occlusion
        lit *= albedo
        shiny = np.nonzero(gloss > 0)[0]
        lit[:, shiny] += gloss[shiny] * _reflected(light, d[:, shiny], normal[:, shiny])
        clear = np.exp(-t * np.float32(light.haze))
        horizon = column(light.horizon)
        radiance[:, seen] = (lit - horizon) * clear + horizon
        return radiance


def _dot(a: F32, b: F32) -> F32:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _sky(light: Light, direction: F32) -> F32:
    """Sky radiance (3, n): horizon to zenith, a glow round the sun, clouds as a flat layer."""
    up = np.clip(direction[2], 0, 1)
    blend = 1 - (1 - up) ** 3
    horizon = column(light.horizon)
    colour = horizon + column(light.zenith - light.horizon) * blend
    near = np.clip(_dot(direction, column(light.towards_sun)), 0, 1)
    colour += (near**24 * np.float32(0.35)) * column(light.sun)
    if light.cloud > 0.03:
        reach = 40 / (up + np.float32(0.12))
        u, v = direction[0] * reach, direction[1] * reach
        thick = noise.smooth(u, v, light.cloud_seed) + np.float32(0.35) * noise.smooth(u * 3, v * 3, light.cloud_seed)
        cover = np.clip((thick + np.float32(light.cloud * 2 - 0.9)) * np.float32(0.6), 0, 1)
        white = horizon * (np.float32(1.05) - np.float32(0.3) * cover)
        colour += (white - colour) * (cover * np.float32(0.85))
    return colour


def _reflected(light: Light, direction: F32, normal: F32) -> F32:
    """What a smooth surface mirrors (3, n): the sky above, something dark below."""
    mirror = direction - 2 * _dot(direction, normal) * normal
    return _sky(light, mirror) * np.where(mirror[2] < 0.12, np.float32(0.28), np.float32(1))
