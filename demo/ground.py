"""The ground's textures: asphalt with markings, rails and repairs, paving, kerbs, grass with fallen
leaves."""

import numpy as np
from numpy.typing import NDArray

from demo import noise
from demo.classes import Class
from demo.colours import column, grey
from demo.layout import LANE, Layout
from demo.scene import GroundStyle

F32 = NDArray[np.float32]
_STEEL = column(grey(0.5))


def ground_albedo(layout: Layout, style: GroundStyle, x: F32, y: F32, semantic: NDArray[np.uint8], detail: F32) -> F32:
    """Linear albedo (3, n) float32 of ground points; `semantic` (n,) as `Layout.segments` has it."""
    albedo = np.empty((3, len(x)), np.float32)
    main, across, either = layout.distances(x, y)
    seed = style.seed
    grain = noise.fractal(x * 24, y * 24, seed) * detail
    rough = noise.fractal(x * 5, y * 5, seed + 1)
    broad = noise.smooth(x * 5, y * 5, seed + 2)

    road = np.nonzero(semantic == Class.ROAD)[0]
    if len(road):
        surface = _asphalt(layout, style, x[road], y[road], grain[road], rough[road], broad[road])
        _markings(surface, layout, style, x[road], y[road], main[road], across[road], rough[road])
        albedo[:, road] = surface
    walk = np.nonzero(semantic == Class.SIDEWALK)[0]
    if len(walk):
        albedo[:, walk] = _paving(style, x[walk], y[walk], either[walk], grain[walk], rough[walk], detail[walk])
    grass = np.nonzero(semantic == Class.TERRAIN)[0]
    if len(grass):
        blade = 1 + np.float32(0.30) * grain[grass] + np.float32(0.22) * rough[grass]
        bare = np.clip(broad[grass] - np.float32(0.7), 0, 1)
        soil = column(np.array([1.5, 1.0, 0.8]) * style.grass.mean())
        colour = column(style.grass) * (1 - bare) + soil * bare
        albedo[:, grass] = colour * np.clip(blade, 0.2, 2)
    off = np.nonzero(semantic != Class.ROAD)[0]
    if style.litter > 0.01 and len(off):
        leaves = noise.uniform(x[off] * 16, y[off] * 16, seed) < style.litter * np.clip(0.8 + 0.5 * broad[off], 0, 2)
        strewn = off[leaves]
        tone = np.float32(0.6) + np.float32(0.6) * noise.uniform(x[strewn] * 16, y[strewn] * 16, seed + 5)
        albedo[:, strewn] = column(style.litter_colour) * tone
    return albedo


def _asphalt(layout: Layout, style: GroundStyle, x: F32, y: F32, grain: F32, rough: F32, broad: F32) -> F32:
    """Grain, cloudy wear, wheel tracks, sealed cracks, square repairs and manhole covers."""
    tone = 1 + np.float32(0.12) * grain + np.float32(0.09) * rough + np.float32(0.08) * broad
    track = np.abs(np.abs((np.abs(y) % LANE) - LANE / 2) - np.float32(0.8))
    tone -= np.float32(0.10) * np.clip(1 - track / np.float32(0.45), 0, 1)
    crack = np.abs(noise.smooth(x * 22, y * 22, style.seed + 11)) < np.float32(0.008 + 0.012 * style.wear)
    tone[crack & (broad > -0.3)] *= 0.6
    cell_x, cell_y = np.floor(x / 7), np.floor(y / np.float32(2.6))
    draw = noise.uniform(cell_x, cell_y, style.seed)
    inside = ((x / 7 - cell_x) < 0.25 + 0.5 * draw) & ((y / np.float32(2.6) - cell_y) > 0.2)
    repair = inside & (draw < 0.10 + 0.25 * style.wear)
    tone[repair] *= np.float32(0.72) + draw[repair]
    hole_x, hole_y = x - np.float32(13) * np.round(x / 13), np.abs(y) - np.float32(LANE * 0.55)
    cover = np.hypot(hole_x, hole_y) < 0.33
    tone[cover] *= np.where(np.hypot(hole_x, hole_y)[cover] > 0.28, np.float32(0.4), np.float32(0.7))
    surface = column(style.asphalt) * np.clip(tone, 0.25, 1.8)
    if layout.rails:
        offset = np.abs(np.abs(np.abs(y) - LANE / 2) - np.float32(0.72))
        surface[:, offset < 0.30] *= 0.85
        surface[:, offset < 0.05] = _STEEL
    return surface


def _markings(
    surface: F32, layout: Layout, style: GroundStyle, x: F32, y: F32, main: F32, across: F32, rough: F32
) -> None:
    """Centre and lane lines, edge lines, zebra crossings and stop lines, worn off in places; painted in
    place."""
    sides = np.abs(y)
    fade = np.float32(1.6 - 1.3 * style.wear)
    painted = rough < fade
    away = across > 4.5
    centre = (sides < 0.20) & (sides > 0.07) if layout.lanes == 2 else (sides < 0.075) & (x % 6 < 3)
    coat = centre & away & painted
    surface[:, coat] = column(style.centre_paint) * (1 + np.float32(0.06) * rough[coat])
    lines = np.zeros(len(x), bool)
    if layout.lanes == 2:
        lines |= (np.abs(sides - LANE) < 0.07) & (x % 9 < 3)
    lines |= np.abs(sides - LANE * layout.lanes) < 0.06
    lines &= away
    if layout.crossing is not None:
        zebra = (across > 0.9) & (across < 3.3) & (main < -0.2) & (y % np.float32(1.0) < 0.5)
        stop = (np.abs(across - np.float32(4.1)) < 0.18) & (main < -0.1) & (y * np.sign(x - layout.crossing.x) > 0)
        lines |= zebra | stop
        side_street = (across < 0) & (main > 0)
        side_zebra = side_street & (main > 0.8) & (main < 3.0) & ((x - layout.crossing.x) % 1.0 < 0.5)
        dashes = side_street & (main > 4) & (np.abs(x - layout.crossing.x) < 0.07) & (y % 5 < 2.5)
        lines |= side_zebra | dashes
    coat = lines & painted
    surface[:, coat] = column(style.paint) * (1 + np.float32(0.06) * rough[coat])


def _paving(style: GroundStyle, x: F32, y: F32, kerb: F32, grain: F32, rough: F32, detail: F32) -> F32:
    """Slabs of uneven tone with joints, a kerb stone along the road, gutter dirt."""
    sx, sy = x / np.float32(style.slab), y / np.float32(style.slab)
    cx, cy = np.floor(sx), np.floor(sy)
    slab = noise.uniform(cx, cy, style.seed) - np.float32(0.5)
    joint = (np.minimum(sx - cx, sy - cy) * style.slab < 0.03) * detail
    tone = 1 + np.float32(0.22) * slab + np.float32(0.08) * grain + np.float32(0.07) * rough - np.float32(0.35) * joint
    stone = kerb < 0.22
    tone[stone] = (np.float32(1.12) + np.float32(0.08) * rough)[stone] * np.where(x[stone] % 1.2 < 0.04, 0.7, 1)
    tone[kerb < 0.05] *= 0.45
    return column(style.paving) * np.clip(tone, 0.2, 1.8)
