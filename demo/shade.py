"""Shading of traced rays: textures, sunlight with shadows, sky light, reflections and haze."""

import numpy as np
from numpy.typing import NDArray

from demo import noise
from demo.colours import column
from demo.ground import compute_ground_albedo
from demo.materials import compute_reflectance
from demo.raycast import MISS
from demo.scene import Lighting, Scene
from demo.shadow import ShadowMap
from demo.surface import compute_surface, detail_factor
from demo.trace import TracedRays

F32 = NDArray[np.float32]


class Shader:
    """Computes the radiance of the rays of one scene.

    Args:
        scene: the scene.
        pixel_angle: angle that a pixel subtends, radians; finer texture is faded out.
        shadow_cells: resolution of the shadow map.
    """

    def __init__(self, scene: Scene, pixel_angle: float, shadow_cells: int) -> None:
        self._scene = scene
        self._pixel_angle = pixel_angle
        self._shadows = ShadowMap(scene.primitives, scene.eye, scene.lighting.towards_sun, shadow_cells)

    def __call__(self, traced: TracedRays) -> F32:
        """Returns the linear radiance (3, n) of traced rays."""
        scene, light = self._scene, self._scene.lighting
        radiance = np.empty((3, len(traced.direction)), np.float32)
        distance = traced.hits.distance
        sky = np.nonzero(np.isinf(distance))[0]
        radiance[:, sky] = _sky_radiance(light, traced.direction[sky].T)

        surfaces = np.nonzero(np.isfinite(distance))[0]
        d, t = np.ascontiguousarray(traced.direction[surfaces].T), distance[surfaces]
        point = d * t + column(scene.eye)
        albedo, normal = np.empty_like(d), np.zeros_like(d)
        gloss, occlusion = np.zeros_like(t), np.ones_like(t)
        solid = traced.hits.solid[surfaces]
        floor, body = np.nonzero(solid == MISS)[0], np.nonzero(solid != MISS)[0]
        x, y = point[0, floor], point[1, floor]
        detail = detail_factor(t[floor], self._pixel_angle) * np.sqrt(np.abs(d[2, floor]))
        semantic = traced.semantic[surfaces[floor]]
        albedo[:, floor] = compute_ground_albedo(scene.layout, scene.ground, x, y, semantic, detail)
        normal[2, floor] = 1
        solid = solid[body]
        surface, normal[:, body] = compute_surface(scene.primitives, solid, point[:, body], t[body], self._pixel_angle)
        albedo[:, body], gloss[body] = compute_reflectance(scene.primitives.material[solid], surface)
        occlusion[body] = np.clip(np.float32(0.55) + np.float32(0.35) * surface.height, 0.55, 1)

        sun = np.maximum(_dot(normal, column(light.towards_sun)), 0)
        if light.sun.max() > 0:
            sunny = np.nonzero(sun > 0)[0]
            sun[sunny] *= self._shadows.visibility(point[:, sunny], normal[:, sunny])
        up = (np.float32(0.5) + np.float32(0.5) * normal[2]) * occlusion
        reflected = column(light.sun) * sun + column(light.sky - light.bounce) * up + column(light.bounce) * occlusion
        reflected *= albedo
        glossy = np.nonzero(gloss > 0)[0]
        reflected[:, glossy] += gloss[glossy] * _mirror_radiance(light, d[:, glossy], normal[:, glossy])
        transmittance = np.exp(-t * np.float32(light.haze))
        horizon = column(light.horizon)
        radiance[:, surfaces] = (reflected - horizon) * transmittance + horizon
        return radiance


def _dot(a: F32, b: F32) -> F32:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _sky_radiance(light: Lighting, direction: F32) -> F32:
    """Returns sky radiance (3, n): a gradient from horizon to zenith, a glow around the sun, a flat cloud layer."""
    up = np.clip(direction[2], 0, 1)
    blend = 1 - (1 - up) ** 3
    horizon = column(light.horizon)
    colour = horizon + column(light.zenith - light.horizon) * blend
    cosine = np.clip(_dot(direction, column(light.towards_sun)), 0, 1)
    colour += (cosine**24 * np.float32(0.35)) * column(light.sun)
    if light.cloud > 0.03:
        distance = 40 / (up + np.float32(0.12))
        u, v, seed = direction[0] * distance, direction[1] * distance, light.cloud_seed
        density = noise.smooth(u, v, seed) + np.float32(0.35) * noise.smooth(u * 3, v * 3, seed)
        cover = np.clip((density + np.float32(light.cloud * 2 - 0.9)) * np.float32(0.6), 0, 1)
        white = horizon * (np.float32(1.05) - np.float32(0.3) * cover)
        colour += (white - colour) * (cover * np.float32(0.85))
    return colour


def _mirror_radiance(light: Lighting, direction: F32, normal: F32) -> F32:
    """Returns the radiance (3, n) from the mirror direction: the sky, attenuated near and below the horizon."""
    mirror = direction - 2 * _dot(direction, normal) * normal
    return _sky_radiance(light, mirror) * np.where(mirror[2] < 0.12, np.float32(0.28), np.float32(1))
