"""Scores of masks on cases computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from demo.sam.card import figures_table
from demo.sam.data import Window
from demo.sam.evaluate import apply_box_nms, apply_mask_nms, tune_felzenszwalb, tuning_score
from demo.sam.measure import best_ious, boundary_precision_recall, label_edges, paste_masks, score_window, summarize
from pipeline.geometry.masks import from_masks
from tests.models import street


def squares() -> np.ndarray:
    """Returns segments (40, 50): 0 with a square 1 of 10 x 10 and a dot 2 of 2 pixels (0.1 % of the window)."""
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
    truth = label_edges(squares())
    assert boundary_precision_recall(truth, truth) == (1, 1)
    assert boundary_precision_recall(np.roll(truth, 2, axis=1), truth) == (1, 1)
    precision, recall = boundary_precision_recall(np.roll(truth, 7, axis=0), truth)
    assert precision < 0.6
    assert recall < 0.6
    empty = np.zeros_like(truth)
    assert boundary_precision_recall(empty, truth) == (1, 0)
    assert boundary_precision_recall(truth, empty) == (0, 1)


def test_small_masks_are_pasted_over_large_ones() -> None:
    large, small = np.ones((4, 4), bool), np.zeros((4, 4), bool)
    small[1, 1] = True
    canvas = paste_masks(from_masks([small, large], 4, 4))
    assert canvas[1, 1] == 1
    assert (np.delete(canvas.ravel(), 5) == 2).all()


def test_perfect_masks_measure_as_perfect() -> None:
    segments = squares()
    masks = from_masks([segments == k for k in range(3)], 40, 50)
    figures = summarize([score_window(masks, Window(np.zeros((40, 50, 3), np.uint8), segments))])
    assert figures["mean_iou"] == figures["area_weighted_iou"] == 1
    assert figures["small"] == figures["large"] == 1
    assert figures["boundary_precision"] == figures["boundary_recall"] == 1
    assert figures["masks_per_window"] == 3
    assert "| x | 1 |" in figures_table({"x": {**figures, "settings": {}}})


def test_box_nms_removes_masks_that_mask_nms_keeps() -> None:
    frame = np.ones((20, 20), bool)
    frame[2:18, 2:18] = False
    masks = from_masks([frame, ~frame, np.ones((20, 20), bool)], 20, 20, predicted_iou=[0.9, 0.8, 0.7])
    assert apply_box_nms(masks, 0.7).table["area"].tolist() == [144, 256]
    assert apply_mask_nms(masks, 0.7).table["area"].tolist() == [144, 256, 400]
    assert apply_mask_nms(masks, 0.6).table["area"].tolist() == [144, 256]


def test_felzenszwalb_is_tuned_by_the_same_score() -> None:
    image = street(48, 64)
    segments = np.unique((image // 64).reshape(-1, 3), axis=0, return_inverse=True)[1].reshape(48, 64)
    windows = [Window(image, segments.astype(np.int32))]
    tuned = tune_felzenszwalb(windows)
    assert tuned.score == pytest.approx(tuning_score(tuned.generator.build("cpu")([image]), windows))
    assert set(tuned.settings) == {"scale", "sigma", "min_size"}
