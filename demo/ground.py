"""Textures of the ground: asphalt with markings, rails and repairs, paving, kerbs, grass and fallen leaves."""

import numpy as np
from numpy.typing import NDArray

from demo import noise
from demo.classes import Class
from demo.colours import column, grey
from demo.layout import LANE, Layout
from demo.scene import GroundStyle

F32 = NDArray[np.float32]
_STEEL = column(grey(0.5))


def compute_ground_albedo(
    layout: Layout, style: GroundStyle, x: F32, y: F32, semantic: NDArray[np.uint8], detail: F32
) -> F32:
    """Computes the albedo of ground points.

    Args:
        layout: the ground plan.
        style: colours and wear.
        x, y: (n,) world coordinates.
        semantic: (n,) train ids of `Layout.ground_labels`.
        detail: (n,) weight of fine texture, 0..1.

    Returns:
        Linear albedo (3, n) float32.
    """
    albedo = np.empty((3, len(x)), np.float32)
    main, across, road_distance = layout.kerb_distances(x, y)
    seed = style.seed
    grain = noise.fractal(x * 24, y * 24, seed) * detail
    rough = noise.fractal(x * 5, y * 5, seed + 1)
    broad = noise.smooth(x * 5, y * 5, seed + 2)

    road = np.nonzero(semantic == Class.ROAD)[0]
    if len(road):
        asphalt = _asphalt_albedo(layout, style, x[road], y[road], grain[road], rough[road], broad[road])
        _add_markings(asphalt, layout, style, x[road], y[road], main[road], across[road], rough[road])
        albedo[:, road] = asphalt
    walk = np.nonzero(semantic == Class.SIDEWALK)[0]
    if len(walk):
        kerb = road_distance[walk]
        albedo[:, walk] = _paving_albedo(style, x[walk], y[walk], kerb, grain[walk], rough[walk], detail[walk])
    grass = np.nonzero(semantic == Class.TERRAIN)[0]
    if len(grass):
        blade = 1 + np.float32(0.30) * grain[grass] + np.float32(0.22) * rough[grass]
        bare = np.clip(broad[grass] - np.float32(0.7), 0, 1)
        soil = column(np.array([1.5, 1.0, 0.8]) * style.grass.mean())
        colour = column(style.grass) * (1 - bare) + soil * bare
        albedo[:, grass] = colour * np.clip(blade, 0.2, 2)
    offroad = np.nonzero(semantic != Class.ROAD)[0]
    if style.litter > 0.01 and len(offroad):
        u, v = x[offroad] * 16, y[offroad] * 16
        covered = noise.uniform(u, v, seed) < style.litter * np.clip(0.8 + 0.5 * broad[offroad], 0, 2)
        leaves = offroad[covered]
        tone = np.float32(0.6) + np.float32(0.6) * noise.uniform(u[covered], v[covered], seed + 5)
        albedo[:, leaves] = column(style.litter_colour) * tone
    return albedo


def _asphalt_albedo(layout: Layout, style: GroundStyle, x: F32, y: F32, grain: F32, rough: F32, broad: F32) -> F32:
    """Computes asphalt with wear, wheel tracks, cracks, square repairs, manhole covers and rails."""
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
    radius = np.hypot(x - np.float32(13) * np.round(x / 13), np.abs(y) - np.float32(LANE * 0.55))
    manhole = radius < 0.33
    tone[manhole] *= np.where(radius[manhole] > 0.28, np.float32(0.4), np.float32(0.7))
    albedo = column(style.asphalt) * np.clip(tone, 0.25, 1.8)
    if layout.rails:
        offset = np.abs(np.abs(np.abs(y) - LANE / 2) - np.float32(0.72))
        albedo[:, offset < 0.30] *= 0.85
        albedo[:, offset < 0.05] = _STEEL
    return albedo


def _add_markings(
    albedo: F32, layout: Layout, style: GroundStyle, x: F32, y: F32, main: F32, across: F32, rough: F32
) -> None:
    """Adds centre, lane, edge and stop lines and zebra crossings, worn in places; changes `albedo`."""
    offset = np.abs(y)
    intact = rough < np.float32(1.6 - 1.3 * style.wear)
    away = across > 4.5
    centre = (offset < 0.20) & (offset > 0.07) if layout.lanes == 2 else (offset < 0.075) & (x % 6 < 3)
    marked = centre & away & intact
    albedo[:, marked] = column(style.centre_marking) * (1 + np.float32(0.06) * rough[marked])
    lines = np.zeros(len(x), bool)
    if layout.lanes == 2:
        lines |= (np.abs(offset - LANE) < 0.07) & (x % 9 < 3)
    lines |= np.abs(offset - LANE * layout.lanes) < 0.06
    lines &= away
    if layout.crossing is not None:
        zebra = (across > 0.9) & (across < 3.3) & (main < -0.2) & (y % np.float32(1.0) < 0.5)
        stop = (np.abs(across - np.float32(4.1)) < 0.18) & (main < -0.1) & (y * np.sign(x - layout.crossing.x) > 0)
        lines |= zebra | stop
        side_street = (across < 0) & (main > 0)
        side_zebra = side_street & (main > 0.8) & (main < 3.0) & ((x - layout.crossing.x) % 1.0 < 0.5)
        dashes = side_street & (main > 4) & (np.abs(x - layout.crossing.x) < 0.07) & (y % 5 < 2.5)
        lines |= side_zebra | dashes
    marked = lines & intact
    albedo[:, marked] = column(style.marking) * (1 + np.float32(0.06) * rough[marked])


def _paving_albedo(style: GroundStyle, x: F32, y: F32, kerb: F32, grain: F32, rough: F32, detail: F32) -> F32:
    """Computes slabs of varying tone with joints, a kerb stone along the road, and a dirty gutter."""
    u, v = x / np.float32(style.slab), y / np.float32(style.slab)
    cell_u, cell_v = np.floor(u), np.floor(v)
    slab = noise.uniform(cell_u, cell_v, style.seed) - np.float32(0.5)
    joint = (np.minimum(u - cell_u, v - cell_v) * style.slab < 0.03) * detail
    tone = 1 + np.float32(0.22) * slab + np.float32(0.08) * grain + np.float32(0.07) * rough - np.float32(0.35) * joint
    stone = kerb < 0.22
    tone[stone] = (np.float32(1.12) + np.float32(0.08) * rough)[stone] * np.where(x[stone] % 1.2 < 0.04, 0.7, 1)
    tone[kerb < 0.05] *= 0.45
    return column(style.paving) * np.clip(tone, 0.2, 1.8)
