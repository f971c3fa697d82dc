"""The facade texture: windows in bays and storeys, five building styles, shops, weathering."""

import numpy as np
from numpy.typing import NDArray

from demo import noise
from demo.colours import column, grey, linear
from demo.domain import STYLES
from demo.surface import Surface

F32 = NDArray[np.float32]
# by style (plaster, brick, stone, panel, glass): window width and height (shares of bay and storey), gloss
_WIDE = np.array([0.46, 0.48, 0.44, 0.80, 0.92], np.float32)
_HIGH = np.array([0.52, 0.54, 0.56, 0.46, 0.82], np.float32)
_GLOSS = np.array([0.22, 0.22, 0.22, 0.28, 0.42], np.float32)
_PANE = column(linear((0.15, 0.18, 0.21)))
_CURTAIN = column(linear((0.78, 0.74, 0.66)))
_FRAMES = np.stack([grey(0.88), grey(0.25), linear((0.40, 0.27, 0.17)), grey(0.62)], 1).astype(np.float32)


def facade(s: Surface) -> tuple[F32, F32]:
    """Albedo (3, n) and gloss (n,). texture: bay width (m), storey height (m), style, whether shops fill
    the ground floor."""
    period, storey, shop = s.texture[0], s.texture[1], s.texture[3] > 0
    style = s.texture[2].astype(np.int8)
    along, up = s.across(), s.height
    albedo = _ground_coat(s, style, along, up)
    gloss = np.zeros(len(along), np.float32)
    wall = np.nonzero((s.face < 2) & (up > 0.05))[0]
    if not len(wall):
        return albedo, gloss
    style, seed, shop = style[wall], s.seed[wall] + 13 * s.face[wall], shop[wall]
    bay, level = along[wall] / period[wall], up[wall] / storey[wall]
    column, floor = np.floor(bay), np.floor(level)
    u, v = np.abs(bay - column - np.float32(0.5)), level - floor - np.float32(0.53)
    draw = noise.uniform(column, floor, seed)
    ground = floor == 0
    wide, high = _WIDE[style], _HIGH[style]
    wide = np.where(ground & shop, np.float32(0.88), wide)
    high = np.where(ground & shop, np.float32(0.62), high)
    v = np.where(ground & shop, v + np.float32(0.14), v)
    blind = (draw < 0.05) | (ground & ~shop & (draw < 0.25))
    side, tall = u - wide / 2, np.abs(v) - high / 2
    edge = np.maximum(side * period[wall], tall * storey[wall])  # metres outside the opening
    opening = (edge < 0) & ~blind
    framed = (edge >= 0) & (edge < 0.11) & ~blind

    colour = albedo[:, wall]
    frame = np.take(_FRAMES, (s.seed[wall] * 7).astype(np.int16) % _FRAMES.shape[1], axis=1)
    colour[:, framed] = colour[:, framed] * 0.35 + frame[:, framed] * 0.55
    mullion = opening & ((edge > -0.07) | ((u * period[wall] < 0.035) & (wide * period[wall] < 2.2)))
    curtain = opening & (draw > 0.6) & (v > (draw - np.float32(0.7)) * high)
    pane = opening & ~mullion
    depth = np.float32(0.75) + np.float32(0.7) * noise.uniform(column, floor, seed + 5)
    colour[:, opening] = _PANE * depth[opening]
    colour[:, curtain] = _CURTAIN * (depth[curtain] * np.float32(0.55))
    goods = pane & ground & shop
    if goods.any():
        stuff = noise.fractal(along[wall][goods] * 9, up[wall][goods] * 9, seed[goods])
        colour[:, goods] *= np.clip(1.4 + 1.1 * stuff, 0.3, 4)
    colour[:, mullion] = frame[:, mullion] * 0.8
    reveal = opening & (v > high / 2 - 0.07)
    colour[:, reveal] *= 0.5
    sill = (v < -high / 2) & (v > -high / 2 - 0.05) & (side < 0.03) & ~blind & (style < 3) & ~ground
    colour[:, sill] = colour[:, sill] * 1.25 + np.float32(0.02)
    board = shop & ground & (level > 0.78) & (level < 0.96)
    if board.any():
        tint = np.stack([noise.uniform(np.floor(column / 2), floor, seed + k) for k in (1, 2, 3)])[:, board]
        colour[:, board] = tint * tint * 0.7 + np.float32(0.02)
    albedo[:, wall] = colour
    gloss[wall] = np.where(pane, _GLOSS[style] * np.where(curtain, np.float32(0.4), np.float32(1)), np.float32(0))
    return albedo, gloss


def _ground_coat(s: Surface, style: NDArray[np.int8], along: F32, up: F32) -> F32:
    """The wall between the windows: grain, courses, cornices, and stains that run down."""
    grain = noise.fractal(along * 11, up * 11, s.seed) * np.sqrt(s.detail)
    stain = noise.smooth(along * 10, up * np.float32(1.6), s.seed + 3)
    patch = noise.smooth(along * 3, up * 3, s.seed + 9)
    tone = 1 + np.float32(0.07) * grain - np.float32(0.11) * np.clip(stain, 0, 2) + np.float32(0.07) * patch
    brick = style == STYLES.index("brick")
    if brick.any():
        row = np.floor(up[brick] / np.float32(0.16))
        column = along[brick] / np.float32(0.5) + np.float32(0.5) * (row % 2)
        tile = noise.uniform(np.floor(column), row, 4.0) - np.float32(0.5)
        joint = (up[brick] % np.float32(0.16) < 0.03) | (column % 1 < 0.06)
        tone[brick] *= 1 + s.detail[brick] * (np.float32(0.5) * tile - np.float32(0.22) * joint)
    stone = style == STYLES.index("stone")
    if stone.any():
        row = np.floor(up[stone] / np.float32(0.55))
        column = along[stone] / np.float32(1.1) + np.float32(0.5) * (row % 2)
        block = noise.uniform(np.floor(column), row, 8.0) - np.float32(0.5)
        joint = (up[stone] % np.float32(0.55) < 0.05) | (column % 1 < 0.04)
        tone[stone] *= 1 + np.float32(0.22) * block - np.float32(0.25) * joint * np.sqrt(s.detail[stone])
    panel = style == STYLES.index("panel")
    tone *= np.where(panel & (up % s.texture[1] < 0.10), np.float32(0.7), np.float32(1))
    plinth = (up < 0.7) & (style < 3)
    tone *= np.where(plinth, np.float32(0.72), np.float32(1))
    top = s.half[2] - s.z
    tone *= np.where((top < 0.5) & (top > 0.1) & (style < 3), np.float32(1.22), np.float32(1))
    tone *= np.where(up < 1.6, np.float32(0.86) + np.float32(0.09) * up, np.float32(1))
    return s.colour * np.maximum(tone, np.float32(0.15))
