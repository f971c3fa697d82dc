"""Renders a scene through a camera: exact labels and an antialiased image.

Labels come from the ray through the centre of each pixel. Pixels at edges get further rays for their colour.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.camera import Camera
from demo.raycast import MISS
from demo.scene import Scene
from demo.sensor import Sensor, digitize, tone_map
from demo.shade import Shader
from demo.trace import TracedRays, tile_indices, trace_rays

F32 = NDArray[np.float32]
_SUBPIXELS = ((-0.34, -0.22), (0.34, 0.22))  # besides the centre
_CONTRAST = 0.45  # difference of log luminance to a neighbour from which a pixel is antialiased
_LARGE = 300_000  # pixels from which larger tiles and a finer shadow map pay
_PACKET = 64


@dataclass(frozen=True)
class Labels:
    """Train ids `semantic` (H, W), and ids `instance` (H, W) that are unique over all classes; 0 is the sky."""

    semantic: NDArray[np.uint8]
    instance: NDArray[np.uint16]


@dataclass(frozen=True)
class Frame:
    """A rendered `image` (H, W, 3) uint8 RGB with its `labels`."""

    image: NDArray[np.uint8]
    labels: Labels


def render_labels(scene: Scene, camera: Camera) -> Labels:
    """Renders the labels alone, several times faster than the image."""
    return _labels(_trace_pixels(scene, camera, _tiles(camera)), camera)


def render(scene: Scene, camera: Camera, sensor: Sensor, rng: np.random.Generator) -> Frame:
    """Renders labels and image; `rng` draws the sensor noise only."""
    labels, radiance = render_radiance(scene, camera)
    return Frame(digitize(tone_map(radiance, sensor, camera.cyclic), sensor, rng), labels)


def render_radiance(scene: Scene, camera: Camera) -> tuple[Labels, F32]:
    """Renders labels and linear radiance (H, W, 3), before the sensor."""
    shape = (camera.height, camera.width)
    order = _tiles(camera)
    shade = Shader(scene, camera.pixel_angle, shadow_cells=384 if order.size > _LARGE else 256)
    traced = _trace_pixels(scene, camera, order)
    radiance = np.ascontiguousarray(shade(traced).T).reshape(*shape, 3)
    edges = _find_edges(traced.hits.solid.reshape(shape), radiance, camera.cyclic)
    pixels = order[edges.reshape(-1)[order] & _first_occurrences(order)]
    if len(pixels):
        _antialias(scene, camera, shade, traced, radiance, pixels)
    return _labels(traced, camera), radiance


def _tiles(camera: Camera) -> NDArray[np.intp]:
    return tile_indices(camera.height, camera.width, side=16 if camera.height * camera.width > _LARGE else 8)


def _trace_pixels(scene: Scene, camera: Camera, order: NDArray[np.intp]) -> TracedRays:
    return trace_rays(scene, camera.pixel_rays().reshape(-1, 3), order)


def _labels(traced: TracedRays, camera: Camera) -> Labels:
    shape = (camera.height, camera.width)
    return Labels(traced.semantic.reshape(shape), traced.instance.reshape(shape))


def _first_occurrences(order: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Returns a mask of one occurrence of every pixel in the tile order."""
    flat = order.reshape(-1)
    mask = np.zeros(len(flat), bool)
    mask[np.unique(flat, return_index=True)[1]] = True
    return mask.reshape(order.shape)


def _find_edges(solid: NDArray[np.int16], radiance: F32, cyclic: bool) -> NDArray[np.bool_]:
    """Returns a mask (H, W) of pixels that differ from a 4-neighbour in solid or clearly in luminance."""
    luminance = np.log(radiance.mean(2) + np.float32(0.02))
    mask = np.zeros(solid.shape, bool)
    for axis in (0, 1):
        edge = (solid != np.roll(solid, -1, axis)) | (np.abs(luminance - np.roll(luminance, -1, axis)) > _CONTRAST)
        if axis == 0:
            edge[-1] = False
        elif not cyclic:
            edge[:, -1] = False
        mask |= edge | np.roll(edge, 1, axis)
    return mask


def _antialias(
    scene: Scene, camera: Camera, shade: Shader, traced: TracedRays, radiance: F32, pixels: NDArray[np.intp]
) -> None:
    """Replaces the radiance of pixels, given in tile order, by the mean over several rays; in place."""
    row, column = np.divmod(pixels, camera.width)
    dx, dy = np.array(_SUBPIXELS).T
    rays = camera.ray_directions(column[:, None] + 0.5 + dx, row[:, None] + 0.5 + dy).reshape(-1, 3)
    packets = np.minimum(np.arange(-(-len(rays) // _PACKET) * _PACKET), len(rays) - 1).reshape(-1, _PACKET)
    solids = np.unique(traced.hits.solid)
    samples = shade(trace_rays(scene, rays, packets, among=solids[solids != MISS].astype(np.intp)))
    total = samples.reshape(3, -1, len(_SUBPIXELS)).sum(2).T
    flat = radiance.reshape(-1, 3)
    flat[pixels] = (flat[pixels] + total) / (len(_SUBPIXELS) + 1)
