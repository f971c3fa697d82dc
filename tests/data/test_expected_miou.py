"""The expected mIoU: by hand, and equal to the mIoU over labels that are drawn from the probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.expected_miou import expected_areas, expected_miou


def random_probabilities(rng: np.random.Generator, classes: int, height: int, width: int) -> np.ndarray:
    logits = rng.normal(0, 2, size=(classes, height, width))
    return (np.exp(logits) / np.exp(logits).sum(0)).astype(np.float32)


def test_areas_by_hand() -> None:
    probabilities = np.array([[[0.75, 0.5, 0.25]], [[0.25, 0.5, 0.75]], [[0.0, 0.0, 0.0]]])
    areas = expected_areas(probabilities, np.array([[0, 255, 1]], np.uint8))
    np.testing.assert_allclose(areas, [[0.75, 0.75, 0], [1, 1, 0], [1.5, 1.5, 0]])
    assert expected_miou(areas) == pytest.approx(100 * (0.75 / 1.75 + 0.75 / 1.75 + 0) / 3)


def test_sure_predictions_expect_to_be_right() -> None:
    label = np.arange(12).reshape(3, 4) % 3
    assert expected_miou(expected_areas(np.eye(3)[:, label], label)) == 100


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_it_is_the_miou_of_labels_drawn_from_the_probabilities(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = random_probabilities(rng, classes, 60, 80)
    label = probabilities.argmax(0)
    drawn = (probabilities.cumsum(0) < rng.random((60, 80))).sum(0).clip(max=classes - 1)
    found = [
        np.count_nonzero((label == k) & (drawn == k)) / np.count_nonzero((label == k) | (drawn == k))
        for k in range(classes)
    ]
    assert expected_miou(expected_areas(probabilities, label)) == pytest.approx(100 * np.mean(found), abs=4)


@given(st.integers(0, 2**32 - 1), st.integers(0, 29))
def test_areas_add_up_and_do_not_depend_on_the_roll(seed: int, shift: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = random_probabilities(rng, 4, 10, 30)
    label = probabilities.argmax(0)
    whole = expected_areas(probabilities, label)
    halves = expected_areas(probabilities[..., :9], label[:, :9]) + expected_areas(probabilities[..., 9:], label[:, 9:])
    np.testing.assert_allclose(whole, halves, rtol=1e-6)
    rolled = expected_areas(np.roll(probabilities, shift, -1), np.roll(label, shift, -1))
    np.testing.assert_allclose(whole, rolled, rtol=1e-6)
    assert whole[2].sum() == pytest.approx(label.size, rel=1e-5)


def test_a_class_that_is_no_longer_predicted_lowers_it() -> None:
    probabilities = random_probabilities(np.random.default_rng(0), 4, 40, 40)
    label = probabilities.argmax(0)
    without = np.where(label == 3, probabilities[:3].argmax(0), label)
    best, worse = (expected_miou(expected_areas(probabilities, found)) for found in (label, without))
    assert worse < best - 5
