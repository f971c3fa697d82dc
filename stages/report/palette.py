"""A palette for people with any colour vision: colours that differ for all, also in lightness [O].

Colours are chosen one after the other from a grid, each as far as possible from those before it. Distances are CIELAB
distances, the smallest of normal vision and of the three kinds of dichromacy. Lightness counts more than hue.
"""

from __future__ import annotations

from functools import cache

import numpy as np

#: Simulations on linear RGB of protanopia, deuteranopia and tritanopia: Machado, Oliveira, Fernandes 2009, severity 1.
DICHROMACY = np.array(
    [
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
)
LEVELS = 8  #: Values of each channel in the grid of candidates.
LIGHTNESS = 1.5  #: Weight of lightness in a distance.


def simulated_lab(colours: np.ndarray) -> np.ndarray:
    """Returns RGB uint8 `(N, 3)` in CIELAB, as seen with normal vision and with the dichromacies: `(4, N, 3)`."""
    from skimage.color import rgb2lab

    encoded = colours / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    seen = np.clip([linear, *(linear @ matrix.T for matrix in DICHROMACY)], 0, 1)
    return np.asarray(rgb2lab(np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)))


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the distances of `simulated_lab` colours `(4, N, 3)` and `(4, M, 3)`: the smallest of all, `(N, M)`."""
    weight = np.array([LIGHTNESS, 1, 1])
    return np.asarray(np.linalg.norm((first[:, :, None] - second[:, None]) * weight, axis=-1).min(axis=0))


@cache
def safe_palette(palette: tuple[tuple[int, int, int], ...]) -> tuple[tuple[int, int, int], ...]:
    """Returns as many colours as `palette` has, in an order in which they resemble its colours."""
    from scipy.optimize import linear_sum_assignment

    levels = np.linspace(0, 255, LEVELS).astype(int)
    candidates = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    lab = simulated_lab(candidates)
    usable = (lab[0, :, 0] > 12) & (lab[0, :, 0] < 96)  # neither black, which means no class, nor white
    candidates, lab = candidates[usable], lab[:, usable]
    chosen = [int(np.argmin(lab[0, :, 0]))]
    nearest = distances(lab, lab[:, chosen])[:, 0]
    while len(chosen) < len(palette):
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, distances(lab, lab[:, chosen[-1:]])[:, 0])
    wanted = simulated_lab(np.array(palette))[:1]
    _, order = linear_sum_assignment(distances(wanted, lab[:1][:, chosen]))
    return tuple(tuple(candidates[chosen[index]].tolist()) for index in order)
