"""Textures of the solids: albedo and gloss of every hit, by material.

A texture function takes a `Surface` and returns `(albedo (3, n), gloss (n,))`, linear float32. All patterns are
functions of the surface point, never of the pixel. "texture:" names the parameters in the rows of `Surface.texture`.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from demo import noise
from demo.colours import GLASS, column, grey, hsv, rgb
from demo.facade import running_bond, texture_facade
from demo.primitives import Material
from demo.surface import Surface

F32 = NDArray[np.float32]
Reflectance = tuple[F32, F32]


_DARK, _GLASS, _PLATE, _RIM, _WHITE = (column(c) for c in (grey(0.16), GLASS, grey(0.85), grey(0.55), grey(0.93)))
_HEADLIGHT, _TAILLIGHT = column(rgb(0.95, 0.93, 0.85)), column(rgb(0.65, 0.05, 0.06))
_LENSES = [column(rgb(*c)) for c in ((1.0, 0.12, 0.10), (1.0, 0.72, 0.10), (0.15, 0.95, 0.45))]
_EMBLEMS = np.stack([hsv(hue, 0.7, 0.6) for hue in np.arange(8) / 8], 1).astype(np.float32)


def _mottled_albedo(s: Surface, amount: float, scale: int) -> F32:
    """Returns the solid's colour with rough noise, `scale` texels per metre, which fades with distance."""
    rough = noise.fractal((s.x + s.z * np.float32(0.37)) * scale, (s.y + s.z) * scale, s.seed)
    return s.colour * np.maximum(1 + np.float32(amount) * rough * np.sqrt(s.detail), np.float32(0.2))


def _matte(albedo: F32) -> Reflectance:
    return albedo, np.zeros(albedo.shape[1], np.float32)


def texture_plain(s: Surface) -> Reflectance:
    """Slight mottling."""
    return _matte(_mottled_albedo(s, 0.08, 15))


def texture_roof(s: Surface) -> Reflectance:
    """Courses of tiles with moss and weathering."""
    albedo = _mottled_albedo(s, 0.12, 8)
    course = (s.height * np.float32(3.2)) % 1
    albedo *= 1 - np.float32(0.35) * s.detail * (course < 0.25)
    stain = noise.smooth(s.x * 4, s.y * 4, s.seed)
    return _matte(albedo * np.clip(1 + np.float32(0.12) * stain, 0.5, 1.4))


def texture_foliage(s: Surface) -> Reflectance:
    """Leaves with contrast at several scales, darker inside and below."""
    leaf = noise.fractal((s.x + s.z * np.float32(0.31)) * 22, (s.y - s.z * np.float32(0.77)) * 22, s.seed)
    leaf += noise.fractal((s.x - s.y) * 17, (s.z + s.y * np.float32(0.4)) * 24, s.seed)
    clump = noise.smooth((s.x - s.z) * 30, (s.y + s.z) * 30, s.seed + 7)
    rough = np.float32(0.42) * leaf * np.maximum(s.detail, np.float32(0.45))
    tone = np.clip(1 + rough + np.float32(0.2) * clump, 0.12, 2.4)
    tone *= np.float32(0.85) + np.float32(0.3) * np.clip(s.z / s.half[2], -1, 1)
    albedo = s.colour * tone
    albedo[0] *= 1 + np.float32(0.18) * clump
    return _matte(albedo)


def texture_hedge(s: Surface) -> Reflectance:
    """Trimmed leaves."""
    leaf = noise.fractal((s.x + s.y) * 24, (s.z + s.y * np.float32(0.6)) * 24, s.seed)
    return _matte(s.colour * np.clip(1 + np.float32(0.4) * leaf * np.maximum(s.detail, np.float32(0.3)), 0.15, 2.2))


def texture_bark(s: Surface) -> Reflectance:
    """Vertical streaks."""
    streak = noise.fractal((s.x + s.y) * 60, s.z * 6, s.seed)
    return _matte(s.colour * np.clip(1 + np.float32(0.3) * streak * s.detail, 0.3, 1.8))


def texture_cloth(s: Surface) -> Reflectance:
    """Soft folds."""
    fold = noise.smooth((s.x + s.y) * 60, s.z * 30, s.seed)
    return _matte(s.colour * np.clip(1 + np.float32(0.22) * fold, 0.4, 1.7))


def texture_car_body(s: Surface) -> Reflectance:
    """Dark sills and wheel arches, lamps and number plates at the ends, door gaps. texture: ground clearance, trim."""
    albedo, gloss = s.colour.copy(), np.full(len(s.x), 0.14, np.float32)
    albedo *= 1 - np.float32(0.25) * np.clip(noise.smooth(s.x * 9, s.z * 9, s.seed), 0, 2) * (s.z < 0)
    level = s.z / s.half[2]
    flank, end = s.face == 1, s.face == 0
    arch_radius = np.float32(0.42)
    above_axle = s.height - np.float32(0.34)
    for axle in (-0.60, 0.62):
        arch = flank & (np.hypot(s.x - axle * s.half[0], above_axle) < arch_radius)
        albedo[:, arch], gloss[arch] = _DARK * 0.3, 0
    sill = (s.face < 2) & (level < np.where(s.texture[1] > 0, np.float32(-0.5), np.float32(-0.82)))
    albedo[:, sill], gloss[sill] = _DARK, 0.02
    gap = flank & (level > -0.7) & (np.abs(np.abs(s.x - 0.05 * s.half[0]) - 0.26 * s.half[0]) < 0.018 * s.half[0])
    albedo[:, gap] *= 0.35
    side = np.abs(s.y) / s.half[1]
    lamp = end & (side > 0.58) & (side < 0.94) & (level > 0.05) & (level < 0.62)
    albedo[:, lamp] = np.where(s.x[lamp] > 0, _HEADLIGHT, _TAILLIGHT)
    grille = end & (s.x > 0) & (side < 0.5) & (level > -0.15) & (level < 0.5)
    albedo[:, grille] = _DARK * 0.6
    plate = end & (side < 0.3) & (np.abs(level + 0.3) < 0.14)
    albedo[:, plate], gloss[plate] = _PLATE, 0
    return albedo, gloss


def texture_car_cabin(s: Surface) -> Reflectance:
    """Glass between pillars and a roof in the body's colour. texture: number of side windows."""
    albedo, gloss = s.colour.copy(), np.full(len(s.x), 0.14, np.float32)
    level = s.z / s.half[2]
    band = (level > -0.72) & (level < 0.76)
    side = s.face == 1
    along = (s.x / s.half[0] + 1) * np.float32(0.5) * s.texture[0]
    pane = side & (np.abs(along % 1 - 0.5) < 0.44)
    screen = (s.face == 0) & (np.abs(s.y) < 0.86 * s.half[1])
    glass = band & (pane | screen)
    albedo[:, glass] = _GLASS * (0.7 + 0.5 * np.clip(noise.smooth(s.x[glass] * 25, s.z[glass] * 25), -1, 1))
    gloss[glass] = 0.34
    return albedo, gloss


def texture_coach(s: Surface) -> Reflectance:
    """Buses, trams and truck cabs.

    texture: lower and upper end of the window band (shares of the half height), window pitch (m), random number that
    selects a stripe.
    """
    albedo, gloss = s.colour.copy(), np.full(len(s.x), 0.09, np.float32)
    level = s.z / s.half[2]
    upright = s.face < 2
    stripe = upright & (s.texture[3] > 0.4) & (level < -0.25) & (level > -0.25 - s.texture[3] * 0.5)
    albedo[:, stripe] = np.where(s.texture[3, stripe] > 0.7, _WHITE, albedo[:, stripe] * 0.35)
    skirt = upright & (level < -0.86)
    albedo[:, skirt] = _DARK
    side = s.face == 1
    pane = np.abs(((s.x + s.half[0]) / s.texture[2]) % 1 - 0.5) < 0.46
    screen = np.abs(s.y) < 0.9 * s.half[1]
    window = (level > s.texture[0]) & (level < s.texture[1]) & ((side & pane) | ((s.face == 0) & screen))
    door_distance = np.abs(np.abs(s.x) - 0.45 * s.half[0])
    door = side & (s.y < 0) & (level < 0.6) & (level > -0.85) & (door_distance < 0.6)
    glass = window | (door & (door_distance < 0.52) & (s.half[0] > 2))
    albedo[:, glass], gloss[glass] = _GLASS * 0.8, 0.3
    board = (s.face == 0) & (level > 0.7) & (level < 0.9) & (np.abs(s.y) < 0.6 * s.half[1])
    albedo[:, board] = _DARK * 0.4
    lamp = (s.face == 0) & (np.abs(level + 0.68) < 0.09) & (np.abs(np.abs(s.y) / s.half[1] - 0.75) < 0.13)
    albedo[:, lamp] = np.where(s.x[lamp] > 0, _HEADLIGHT, _TAILLIGHT)
    return albedo, gloss


def texture_cargo(s: Surface) -> Reflectance:
    """A truck's box: ribs, dirt, optionally an emblem. texture: hue of the emblem, whether there is one."""
    albedo = _mottled_albedo(s, 0.05, 10)
    rib = ((s.x * np.float32(2.2)) % 1 < 0.12) & (s.face == 1)
    albedo[:, rib] *= 0.8
    emblem = (s.texture[1] > 0) & (s.face == 1) & (np.hypot(s.x / s.half[0], 1.4 * s.z / s.half[2]) < 0.62)
    albedo[:, emblem] = _EMBLEMS[:, (s.texture[0, emblem] * 8).astype(np.int8)]
    dirt = np.clip(-s.z / s.half[2], 0, 1) * np.clip(noise.smooth(s.x * 8, s.z * 8, s.seed) + 0.6, 0, 1.5)
    return albedo * (1 - np.float32(0.3) * dirt), np.full(len(s.x), 0.02, np.float32)


def texture_wheel(s: Surface) -> Reflectance:
    """A tyre around a bright rim; the spokes of thin (bicycle) wheels and their background average to dull grey."""
    albedo = s.colour.copy()
    radius = np.hypot(s.x, s.z) / s.half[0]
    thin = s.half[1] < 0.05
    hub = radius < np.where(thin, np.float32(0.86), np.float32(0.62))
    albedo[:, hub] = np.where(thin[hub], _RIM * 0.45, _RIM)
    spoke = hub & (np.sin(np.arctan2(s.z, s.x) * 5) > 0.3) & ~thin
    albedo[:, spoke] *= 0.3
    return _matte(albedo)


def texture_fence(s: Surface) -> Reflectance:
    """Pickets, mesh or railing; the background in the gaps is a dark average. texture: kind."""
    kind = s.texture[0]
    albedo = _mottled_albedo(s, 0.12, 20)
    along, up = s.x + s.half[0], s.z + s.half[2]
    picket = (along % 0.16 > 0.11) & (s.z < 0.9 * s.half[2])
    mesh = ((along + up) % 0.3 > 0.07) & ((along - up) % 0.3 > 0.07)
    mesh &= (along % 2.4 > 0.08) & (s.z < 0.94 * s.half[2])
    rail = (along % 0.13 > 0.035) & (np.abs(s.z) < 0.82 * s.half[2]) & (along % 2.0 > 0.07)
    gap = np.where(kind == 0, picket, np.where(kind == 1, mesh, rail))
    albedo[:, gap] = albedo[:, gap] * 0.22 + np.float32(0.03)
    return _matte(albedo)


def texture_masonry(s: Surface) -> Reflectance:
    """Brick, stone or render with stains that run down. texture: kind."""
    kind, along, up = s.texture[0], s.face_coordinate(), s.z + s.half[2]
    albedo = _mottled_albedo(s, 0.10, 14)
    height = np.where(kind == 0, np.float32(0.09), np.float32(0.3))
    width = np.where(kind == 0, np.float32(0.26), np.float32(0.55))
    block, joint = running_bond(along, up, width, height, (0.05, 0.14 * height), s.seed)
    tone = 1 + np.float32(0.35) * block
    pattern = tone * np.where(joint, 1 - np.float32(0.35) * s.detail, np.float32(1))
    stain = 1 - np.float32(0.16) * np.clip(noise.smooth(along * 12, up * 2, s.seed), 0, 2)
    return _matte(albedo * (np.where(kind < 2, pattern, np.float32(1)) * stain))


def texture_signal(s: Surface) -> Reflectance:
    """Three lenses, one lit, on both faces along the street. texture: the lit lens, 0 (red) to 2 (green)."""
    albedo = s.colour.copy()
    for k, z in enumerate((0.30, 0.0, -0.30)):
        lens = (s.face == 0) & (np.hypot(s.y, s.z - z) < 0.115)
        lit = s.texture[0, lens] == k
        albedo[:, lens] = np.where(lit, _LENSES[k] * 1.6, _LENSES[k] * 0.12)
    return _matte(albedo)


def texture_sign(s: Surface) -> Reflectance:
    """Border, symbol and grey back.

    texture: kind (0 round, 1 triangle, 2 and 3 rectangles), colour, random number that selects the symbol.
    """
    kind, draw = s.texture[0], s.texture[2]
    u, v = s.y / s.half[1], s.z / s.half[2]
    circle, rectangle = np.hypot(u, v), np.maximum(np.abs(u), np.abs(v))
    triangle = np.maximum(np.abs(u) * 2 + v, -v)
    rim = np.where(kind == 0, circle > 0.78, np.where(kind == 1, triangle > 0.72, rectangle > 0.88))
    coloured_rim = (kind == 1) | ((kind == 0) & (draw < 0.6))
    albedo = s.colour.copy()
    field = np.where(coloured_rim, ~rim, rim)
    albedo[:, field] = _WHITE
    stroke = np.abs(v) < np.where(draw < 0.3, np.float32(0.16), np.float32(0.4))
    symbol = ~rim & stroke & (np.abs(u - 0.2 * (draw - 0.5)) < np.where(draw > 0.6, 0.18, 0.48))
    albedo[:, symbol] = np.where(coloured_rim[symbol], _DARK * 0.3, _WHITE)
    back = (s.front < 0) | (s.face != 0)
    albedo[:, back] = _RIM * 0.6
    return _matte(albedo)


TEXTURES: dict[Material, Callable[[Surface], Reflectance]] = {
    Material.PLAIN: texture_plain,
    Material.FACADE: texture_facade,
    Material.ROOF: texture_roof,
    Material.FOLIAGE: texture_foliage,
    Material.BARK: texture_bark,
    Material.CAR_BODY: texture_car_body,
    Material.CAR_CABIN: texture_car_cabin,
    Material.COACH: texture_coach,
    Material.CARGO: texture_cargo,
    Material.WHEEL: texture_wheel,
    Material.FENCE: texture_fence,
    Material.MASONRY: texture_masonry,
    Material.SIGNAL: texture_signal,
    Material.SIGN: texture_sign,
    Material.CLOTH: texture_cloth,
    Material.HEDGE: texture_hedge,
}


def compute_reflectance(material: NDArray[np.int8], s: Surface) -> Reflectance:
    """Returns albedo (3, n) and gloss (n,) of hits on solids of mixed materials (n,)."""
    albedo, gloss = np.empty_like(s.colour), np.empty(len(s.x), np.float32)
    for m in np.flatnonzero(np.bincount(material)):
        index = np.nonzero(material == m)[0]
        albedo[:, index], gloss[index] = TEXTURES[Material(int(m))](s.take(index))
    return albedo, gloss
