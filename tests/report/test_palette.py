"""The second palette: its colours differ for every kind of colour vision."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.labels import load_label_space
from stages.report.palette import safe_palette, simulated_lab


def smallest_distances(palette: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """CIELAB distance of the closest pair, with normal vision and the three dichromacies: `(4,)`."""
    lab = simulated_lab(np.array(palette))
    distances = np.linalg.norm(lab[:, :, None] - lab[:, None], axis=-1)
    distances[:, np.arange(len(palette)), np.arange(len(palette))] = np.inf
    return distances.min(axis=(1, 2))


@pytest.mark.parametrize("name", ["cityscapes19", "densepass13", "wildpass8", "stanford2d3d"])
def test_all_pairs_differ_for_every_colour_vision(name: str) -> None:
    palette = load_label_space(name).palette
    safe = safe_palette(palette)
    assert len(set(safe)) == len(palette)
    assert smallest_distances(safe).min() > 12  # 2.3 is just noticeable
    assert smallest_distances(safe).min() > 2 * smallest_distances(palette).min() or name == "wildpass8"


def test_the_simulation_confuses_red_and_green_and_keeps_grey() -> None:
    red_green = simulated_lab(np.array([[190, 0, 0], [100, 95, 0], [128, 128, 128]]))
    distance = np.linalg.norm(red_green[:, 0] - red_green[:, 1], axis=-1)
    assert distance[2] < 0.5 * distance[0]  # deuteranopia
    assert np.abs(red_green[:, 2, 1:]).max() < 1


def test_a_palette_of_one_class() -> None:
    assert len(safe_palette(((0, 0, 0),))) == 1
