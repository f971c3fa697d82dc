"""One scene through one camera: exact labels, and the picture.

Labels come from the ray through each pixel's centre. Colours are antialiased where neighbouring pixels differ, by
further rays inside those pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demo.camera import Camera
from demo.raycast import MISS
from demo.scene import Scene
from demo.sensor import Sensor, develop, expose
from demo.shade import Shader
from demo.trace import Traced, tiles, trace

F32 = NDArray[np.float32]
_SUBPIXELS = ((-0.34, -0.22), (0.34, 0.22))  # besides the centre
_CONTRAST = 0.45  # step of log luminance to a neighbour from which a pixel is antialiased
_LARGE = 300_000  # pixels from which larger tiles and a finer shadow map pay
_BUNDLE = 64


@dataclass(frozen=True)
class Labels:
    """`semantic` (H, W) uint8 train ids; `instance` (H, W) uint16, 0 for sky only; ids are unique over
    classes."""

    semantic: NDArray[np.uint8]
    instance: NDArray[np.uint16]


@dataclass(frozen=True)
class Frame:
    """`image` (H, W, 3) uint8 RGB with its `labels`."""

    image: NDArray[np.uint8]
    labels: Labels


def render_labels(scene: Scene, camera: Camera) -> Labels:
    """Labels alone, several times faster than the picture."""
    return _labels(_trace_all(scene, camera, _tiles(camera)), camera)


def _tiles(camera: Camera) -> NDArray[np.intp]:
    return tiles(camera.height, camera.width, side=16 if camera.height * camera.width > _LARGE else 8)


def _trace_all(scene: Scene, camera: Camera, order: NDArray[np.intp]) -> Traced:
    return trace(scene, camera.grid().reshape(-1, 3), order)


def _labels(traced: Traced, camera: Camera) -> Labels:
    shape = (camera.height, camera.width)
    return Labels(traced.semantic.reshape(shape), traced.instance.reshape(shape))


def render(scene: Scene, camera: Camera, sensor: Sensor, rng: np.random.Generator) -> Frame:
    """Labels and picture; `rng` draws the sensor noise and nothing else."""
    labels, radiance = render_radiance(scene, camera)
    return Frame(expose(develop(radiance, sensor, camera.cyclic), sensor, rng), labels)


def render_radiance(scene: Scene, camera: Camera) -> tuple[Labels, F32]:
    """Labels and linear radiance (H, W, 3) float32, before any sensor."""
    shape = (camera.height, camera.width)
    order = _tiles(camera)
    shade = Shader(scene, camera.pixel_angle, shadow_cells=384 if order.size > _LARGE else 256)
    traced = _trace_all(scene, camera, order)
    radiance = np.ascontiguousarray(shade(traced).T).reshape(*shape, 3)
    rough = _differs(traced.hits.solid.reshape(shape), radiance, camera.cyclic)
    marked = order[rough.reshape(-1)[order] & _first(order)]
    if len(marked):
        _antialias(scene, camera, shade, traced, radiance, marked)
    return _labels(traced, camera), radiance


def _first(order: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Marks one occurrence of every pixel in the tile order."""
    flat = order.reshape(-1)
    mask = np.zeros(len(flat), bool)
    mask[np.unique(flat, return_index=True)[1]] = True
    return mask.reshape(order.shape)


def _differs(solid: NDArray[np.int16], radiance: F32, cyclic: bool) -> NDArray[np.bool_]:
    """Pixels (H, W) that differ from a 4-neighbour in solid or, clearly, in brightness."""
    brightness = np.log(radiance.mean(2) + np.float32(0.02))
    mask = np.zeros(solid.shape, bool)
    for axis in (0, 1):
        ahead = (solid != np.roll(solid, -1, axis)) | (np.abs(brightness - np.roll(brightness, -1, axis)) > _CONTRAST)
        if axis == 0:
            ahead[-1] = False
        elif not cyclic:
            ahead[:, -1] = False
        mask |= ahead | np.roll(ahead, 1, axis)
    return mask


def _antialias(
    scene: Scene,
    camera: Camera,
    shade: Shader,
    traced: Traced,
    radiance: F32,
    pixels: NDArray[np.intp],
) -> None:
    """Replace the colours of some pixels, near ones in a row, by the mean over rays inside them; in place."""
    row, column = np.divmod(pixels, camera.width)
    dx, dy = np.array(_SUBPIXELS).T
    rays = camera.directions(column[:, None] + 0.5 + dx, row[:, None] + 0.5 + dy).reshape(-1, 3)
    bundles = np.minimum(np.arange(-(-len(rays) // _BUNDLE) * _BUNDLE), len(rays) - 1).reshape(-1, _BUNDLE)
    seen = np.unique(traced.hits.solid)
    fine = shade(trace(scene, rays, bundles, among=seen[seen != MISS].astype(np.intp)))
    total = fine.reshape(3, -1, len(_SUBPIXELS)).sum(2).T
    flat = radiance.reshape(-1, 3)
    flat[pixels] = (flat[pixels] + total) / (len(_SUBPIXELS) + 1)
