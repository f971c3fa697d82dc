"""The facade texture: windows in bays and storeys, five building styles, shops and weathering."""

import numpy as np
from numpy.typing import NDArray

from demo import noise
from demo.colours import column, grey, rgb
from demo.domain import STYLES
from demo.surface import Surface

F32 = NDArray[np.float32]
Length = NDArray[np.floating] | np.floating | float
# By style (plaster, brick, stone, panel, glass): window width and height (shares of bay and storey), gloss.
_WINDOW_WIDTH = np.array([0.46, 0.48, 0.44, 0.80, 0.92], np.float32)
_WINDOW_HEIGHT = np.array([0.52, 0.54, 0.56, 0.46, 0.82], np.float32)
_GLOSS = np.array([0.22, 0.22, 0.22, 0.28, 0.42], np.float32)
_PANE = column(rgb(0.15, 0.18, 0.21))
_CURTAIN = column(rgb(0.78, 0.74, 0.66))
_FRAMES = np.stack([grey(0.88), grey(0.25), rgb(0.40, 0.27, 0.17), grey(0.62)], 1).astype(np.float32)


def texture_facade(s: Surface) -> tuple[F32, F32]:
    """Returns albedo (3, n) and gloss (n,) of facades.

    Args:
        s: hits; `texture` is bay width (m), storey height (m), index of the style, whether the ground floor is a shop.
    """
    period, storey, shop = s.texture[0], s.texture[1], s.texture[3] > 0
    style = s.texture[2].astype(np.int8)
    along, up = s.face_coordinate(), s.height
    albedo = _wall_albedo(s, style, along, up)
    gloss = np.zeros(len(along), np.float32)
    wall = np.nonzero((s.face < 2) & (up > 0.05))[0]
    if not len(wall):
        return albedo, gloss
    style, seed, shop = style[wall], s.seed[wall] + 13 * s.face[wall], shop[wall]
    bay, level = along[wall] / period[wall], up[wall] / storey[wall]
    bay_index, floor = np.floor(bay), np.floor(level)
    u, v = np.abs(bay - bay_index - np.float32(0.5)), level - floor - np.float32(0.53)
    draw = noise.uniform(bay_index, floor, seed)
    ground = floor == 0
    width = np.where(ground & shop, np.float32(0.88), _WINDOW_WIDTH[style])
    height = np.where(ground & shop, np.float32(0.62), _WINDOW_HEIGHT[style])
    v = np.where(ground & shop, v + np.float32(0.14), v)
    blind = (draw < 0.05) | (ground & ~shop & (draw < 0.25))
    gap_u, gap_v = u - width / 2, np.abs(v) - height / 2
    gap = np.maximum(gap_u * period[wall], gap_v * storey[wall])  # metres outside the opening
    opening = (gap < 0) & ~blind
    border = (gap >= 0) & (gap < 0.11) & ~blind

    colour = albedo[:, wall]
    frame = np.take(_FRAMES, (s.seed[wall] * 7).astype(np.int16) % _FRAMES.shape[1], axis=1)
    colour[:, border] = colour[:, border] * 0.35 + frame[:, border] * 0.55
    mullion = opening & ((gap > -0.07) | ((u * period[wall] < 0.035) & (width * period[wall] < 2.2)))
    curtain = opening & (draw > 0.6) & (v > (draw - np.float32(0.7)) * height)
    pane = opening & ~mullion
    depth = np.float32(0.75) + np.float32(0.7) * noise.uniform(bay_index, floor, seed + 5)
    colour[:, opening] = _PANE * depth[opening]
    colour[:, curtain] = _CURTAIN * (depth[curtain] * np.float32(0.55))
    display = pane & ground & shop
    if display.any():
        goods = noise.fractal(along[wall][display] * 9, up[wall][display] * 9, seed[display])
        colour[:, display] *= np.clip(1.4 + 1.1 * goods, 0.3, 4)
    colour[:, mullion] = frame[:, mullion] * 0.8
    reveal = opening & (v > height / 2 - 0.07)
    colour[:, reveal] *= 0.5
    sill = (v < -height / 2) & (v > -height / 2 - 0.05) & (gap_u < 0.03) & ~blind & (style < 3) & ~ground
    colour[:, sill] = colour[:, sill] * 1.25 + np.float32(0.02)
    board = shop & ground & (level > 0.78) & (level < 0.96)
    if board.any():
        tint = np.stack([noise.uniform(np.floor(bay_index / 2), floor, seed + k) for k in (1, 2, 3)])[:, board]
        colour[:, board] = tint * tint * 0.7 + np.float32(0.02)
    albedo[:, wall] = colour
    gloss[wall] = np.where(pane, _GLOSS[style] * np.where(curtain, np.float32(0.4), np.float32(1)), np.float32(0))
    return albedo, gloss


def running_bond(
    along: F32, up: F32, width: Length, height: Length, joint: tuple[float, Length], seed: F32 | float
) -> tuple[F32, NDArray[np.bool_]]:
    """Computes courses of stones, each shifted by half a stone.

    Args:
        along, up: (n,) horizontal coordinate and height, metres.
        width, height: size of a stone, metres.
        joint: width of a joint as a share of the stone, height of a joint in metres.
        seed: shifts the noise.

    Returns:
        A random tone per stone (n,), -0.5..0.5, and a mask (n,) of the joints.
    """
    row = np.floor(up / height)
    position = along / width + np.float32(0.5) * (row % 2)
    tone = noise.uniform(np.floor(position), row, seed) - np.float32(0.5)
    return tone, (up % height < joint[1]) | (position % 1 < joint[0])


def _wall_albedo(s: Surface, style: NDArray[np.int8], along: F32, up: F32) -> F32:
    """Computes the wall between the windows: grain, courses, cornices, plinths and stains that run down."""
    grain = noise.fractal(along * 11, up * 11, s.seed) * np.sqrt(s.detail)
    stain = noise.smooth(along * 10, up * np.float32(1.6), s.seed + 3)
    patch = noise.smooth(along * 3, up * 3, s.seed + 9)
    tone = 1 + np.float32(0.07) * grain - np.float32(0.11) * np.clip(stain, 0, 2) + np.float32(0.07) * patch
    brick = style == STYLES.index("brick")
    if brick.any():
        width, height = np.float32(0.5), np.float32(0.16)
        block, joint = running_bond(along[brick], up[brick], width, height, (0.06, 0.03), 4.0)
        tone[brick] *= 1 + s.detail[brick] * (np.float32(0.5) * block - np.float32(0.22) * joint)
    stone = style == STYLES.index("stone")
    if stone.any():
        width, height = np.float32(1.1), np.float32(0.55)
        block, joint = running_bond(along[stone], up[stone], width, height, (0.04, 0.05), 8.0)
        tone[stone] *= 1 + np.float32(0.22) * block - np.float32(0.25) * joint * np.sqrt(s.detail[stone])
    panel = style == STYLES.index("panel")
    tone *= np.where(panel & (up % s.texture[1] < 0.10), np.float32(0.7), np.float32(1))
    plinth = (up < 0.7) & (style < 3)
    tone *= np.where(plinth, np.float32(0.72), np.float32(1))
    top = s.half[2] - s.z
    tone *= np.where((top < 0.5) & (top > 0.1) & (style < 3), np.float32(1.22), np.float32(1))
    tone *= np.where(up < 1.6, np.float32(0.86) + np.float32(0.09) * up, np.float32(1))
    return s.colour * np.maximum(tone, np.float32(0.15))
