"""How masks are measured, on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from demo.sam.card import figures_table
from demo.sam.data import Window
from demo.sam.evaluate import choose_felzenszwalb, score, suppress_boxes, suppress_masks
from demo.sam.measure import best_ious, boundary_match, edges, match, painted, summary
from pipeline.geometry.masks import from_masks
from tests.models import street


def squares() -> np.ndarray:
    """Segments (40, 50): 0, with a square 1 of 10 x 10 and a dot 2 of 2 pixels (0.1 % of the window)."""
    segments = np.zeros((40, 50), np.int32)
    segments[10:20, 10:20] = 1
    segments[30, 30:32] = 2
    return segments


def test_best_iou_of_every_segment_that_is_not_too_small() -> None:
    segments = squares()
    half = segments == 1
    half[:, 15:] = False
    masks = from_masks([half, segments != 1, segments == 2], 40, 50, predicted_iou=[0.5, 0.9, 0.8])
    iou, area = best_ious(masks, segments)
    assert area.tolist() == [2000 - 102, 100]
    assert iou.tolist() == pytest.approx([1898 / 1900, 0.5])
    assert best_ious(from_masks([], 40, 50), segments)[0].tolist() == [0, 0]


def test_boundaries_within_two_pixels() -> None:
    truth = edges(squares())
    assert boundary_match(truth, truth) == (1, 1)
    assert boundary_match(np.roll(truth, 2, axis=1), truth) == (1, 1)
    precision, recall = boundary_match(np.roll(truth, 7, axis=0), truth)
    assert precision < 0.6
    assert recall < 0.6
    nothing = np.zeros_like(truth)
    assert boundary_match(nothing, truth) == (1, 0)
    assert boundary_match(truth, nothing) == (0, 1)


def test_small_masks_are_painted_over_large_ones() -> None:
    large, small = np.ones((4, 4), bool), np.zeros((4, 4), bool)
    small[1, 1] = True
    picture = painted(from_masks([small, large], 4, 4))
    assert picture[1, 1] == 1
    assert (np.delete(picture.ravel(), 5) == 2).all()


def test_perfect_masks_measure_as_perfect() -> None:
    segments = squares()
    masks = from_masks([segments == k for k in range(3)], 40, 50)
    figures = summary([match(masks, Window(np.zeros((40, 50, 3), np.uint8), segments))])
    assert figures["mean_iou"] == figures["area_weighted_iou"] == 1
    assert figures["small"] == figures["large"] == 1
    assert figures["boundary_precision"] == figures["boundary_recall"] == 1
    assert figures["masks_per_window"] == 3
    assert "| x | 1 |" in figures_table({"x": {**figures, "settings": {}}})


def test_boxes_are_suppressed_where_masks_are_not() -> None:
    ring = np.ones((20, 20), bool)
    ring[2:18, 2:18] = False
    masks = from_masks([ring, ~ring, np.ones((20, 20), bool)], 20, 20, predicted_iou=[0.9, 0.8, 0.7])
    assert suppress_boxes(masks, 0.7).table["area"].tolist() == [144, 256]
    assert suppress_masks(masks, 0.7).table["area"].tolist() == [144, 256, 400]
    assert suppress_masks(masks, 0.6).table["area"].tolist() == [144, 256]


def test_felzenszwalb_is_tuned_by_the_same_score() -> None:
    image = street(48, 64)
    segments = np.unique((image // 64).reshape(-1, 3), axis=0, return_inverse=True)[1].reshape(48, 64)
    windows = [Window(image, segments.astype(np.int32))]
    chosen = choose_felzenszwalb(windows)
    assert chosen.score == pytest.approx(score(chosen.generator.build("cpu")([image]), windows))
    assert set(chosen.settings) == {"scale", "sigma", "min_size"}
