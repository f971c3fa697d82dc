"""Boundary F-score, calibration, coverage and precision: against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.labels import load_label_space
from stages.evaluate.measures import (
    BINS,
    TOLERANCES,
    boundary_counts,
    boundary_f,
    calibration_counts,
    coverage_and_precision,
    expected_calibration_error,
    precision_at,
    risk_area,
    weight_counts,
)
from stages.evaluate.score import Scorer, largest_changes
from tests.fuse import reference_rules as reference

CITYSCAPES = load_label_space("cityscapes19")


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.eye(19, dtype=np.float32)[labels], -1, 0)


@given(st.integers(0, 10**6), st.booleans())
@settings(deadline=None)
def test_boundary_counts_agree_with_the_definition(seed: int, cyclic: bool) -> None:
    rng = np.random.default_rng(seed)
    prediction, truth = rng.integers(0, 2, (2, 5, 9)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.05] = 255
    known = ~reference.dilate(truth == 255, 1, cyclic)
    a, b = (reference.changes(labels, cyclic) & known for labels in (prediction, truth))
    for radius, counts in zip(TOLERANCES, boundary_counts(prediction, truth, 255, cyclic=cyclic), strict=True):
        near_a, near_b = reference.dilate(a, radius, cyclic), reference.dilate(b, radius, cyclic)
        assert counts.tolist() == [(a & near_b).sum(), a.sum(), (b & near_a).sum(), b.sum()]


def test_boundary_f_of_a_shifted_edge() -> None:
    truth = np.zeros((10, 40), np.uint8)
    truth[:, 10:30] = 1
    f = [boundary_f(boundary_counts(np.roll(truth, k, axis=1), truth, 255)) for k in range(4)]
    assert [scores[1] for scores in f] == [100, 100, 0, 0]
    assert [scores[2] for scores in f] == [100, 100, 100, 0]
    assert f[3][4] == 100
    # over the seam the edge is as near as anywhere
    assert boundary_f(boundary_counts(np.roll(truth, 10, axis=1), np.roll(truth, 11, axis=1), 255))[1] == 100
    assert boundary_f(boundary_counts(np.zeros_like(truth), truth, 255))[4] == 0
    assert np.isnan(boundary_f(boundary_counts(np.zeros_like(truth), np.zeros_like(truth), 255))[1])


@given(st.integers(0, 10**6), st.integers(1, 50))
@settings(deadline=None)
def test_calibration_error_is_its_definition(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    confidence, correct = rng.random(n).astype(np.float32), rng.random(n) < 0.5
    expected = 0.0
    for k in range(BINS):
        inside = [i for i in range(n) if min(int(confidence[i] * BINS), BINS - 1) == k]
        if inside:
            expected += abs(np.mean([correct[i] for i in inside]) - np.mean([confidence[i] for i in inside])) * len(
                inside
            )
    found = expected_calibration_error(calibration_counts(confidence, correct))
    assert found == pytest.approx(100 * expected / n, abs=1e-3)


def test_a_prediction_as_sure_as_it_is_right_has_no_calibration_error() -> None:
    correct = np.arange(1000) < 700
    assert expected_calibration_error(calibration_counts(np.full(1000, 0.7), correct)) == pytest.approx(0, abs=1e-9)
    assert expected_calibration_error(calibration_counts(np.ones(1000), correct)) == pytest.approx(30)
    assert np.isnan(expected_calibration_error(calibration_counts(np.zeros(0), np.zeros(0, bool))))


@given(st.integers(0, 10**6), st.integers(1, 60), st.floats(0.01, 1))
@settings(deadline=None)
def test_precision_of_the_highest_weights(seed: int, n: int, coverage: float) -> None:
    rng = np.random.default_rng(seed)
    weight, correct = rng.integers(0, 4, n).astype(np.uint8) * 85, rng.random(n) < 0.6
    counts = weight_counts(weight, correct)
    found, precise = coverage_and_precision(counts)
    assert found == pytest.approx(100 * weight.mean() / 255)
    if weight.any():
        assert precise == pytest.approx(100 * weight[correct].sum() / weight.sum())
    left, right = coverage * n, 0.0
    for value in (255, 170, 85, 0):
        same = weight == value
        if same.any():
            part = min(left, same.sum())
            right += part * correct[same].mean()
            left -= part
    assert precision_at(counts, coverage) == pytest.approx(100 * right / (coverage * n), abs=1e-6)


def test_things_seam_and_single_images_are_scored_apart() -> None:
    scorer = Scorer("x", CITYSCAPES, CITYSCAPES)
    truth = np.zeros((8, 64), np.uint8)
    truth[:4] = 13  # cars above the road
    wrong = truth.copy()
    wrong[:4, 60:] = 0
    scorer.add(one_hot(truth), truth, np.full(truth.shape, 255, np.uint8), "right")
    scorer.add(one_hot(wrong), truth, np.where(wrong == truth, 255, 0).astype(np.uint8), "wrong")
    scores = scorer.scores()
    assert scores.by_image["right"] == 100
    assert scores.by_image["wrong"] < 100
    assert scores.things == scores.iou["car"] == pytest.approx(100 * 496 / 512)
    # the band is 4 columns wide: two at either end, and of one image half of them are wrong
    assert scores.seam == pytest.approx(np.mean([100 * 24 / 32, 100 * 32 / 40]))
    assert scores.precision == 100
    assert scores.coverage == pytest.approx(100 * (1024 - 16) / 1024)
    figures = scores.figures()
    assert figures["things"] == round(scores.things, 2)
    assert "by_image" not in figures


def test_the_best_and_the_worst_images_come_first_and_last() -> None:
    before, after = Scorer("a", CITYSCAPES, CITYSCAPES), Scorer("b", CITYSCAPES, CITYSCAPES)
    truth = np.zeros((4, 32), np.uint8)
    for k in range(5):
        worse, better = truth.copy(), truth.copy()
        worse[:, : 2 * k] = 1
        before.add(one_hot(worse), truth, None, f"p{k}")
        better[:, : 2 * (4 - k)] = 1
        after.add(one_hot(better), truth, None, f"p{k}")
    found = largest_changes(before.scores(), after.scores(), count=1)
    assert [name for name, _, _ in found] == ["p4", "p0"]
    assert found[0][2] > found[0][1]
    assert len(largest_changes(before.scores(), after.scores())) == 5


@given(st.integers(0, 2**32 - 1))
def test_the_risk_area_is_the_mean_risk_over_all_coverages(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.permutation(256).repeat(40).astype(np.uint8)
    correct = rng.random(weight.size) < (0.3 + 0.6 * weight / 255)
    order = np.argsort(-weight.astype(int), kind="stable")
    # pixels of equal weight share their errors evenly
    wrong = 1 - correct[order].reshape(256, 40).mean(axis=1).repeat(40)
    by_hand = 100 * np.mean(np.cumsum(wrong) / np.arange(1, weight.size + 1))
    assert risk_area(weight_counts(weight, correct)) == pytest.approx(by_hand, rel=1e-2)


def test_a_better_order_has_a_smaller_risk_area() -> None:
    correct = np.arange(1000) < 700
    good, bad = (np.where(correct, high, 255 - high).astype(np.uint8) for high in (200, 50))
    areas = [risk_area(weight_counts(weight, correct)) for weight in (good, np.full(1000, 9), bad)]
    assert areas == sorted(areas)
    assert areas[1] == pytest.approx(30, rel=1e-2), "without an order the risk is the error everywhere"
    assert np.isnan(risk_area(np.zeros((256, 2))))
