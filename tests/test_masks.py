"""Mask sets are lossless, and their fast operations agree with dense masks."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import ImageError
from pipeline.geometry.masks import MaskSet, empty, from_masks, mask_box

dense_masks = st.tuples(st.integers(0, 9), st.integers(1, 7), st.integers(1, 9)).flatmap(
    lambda shape: hnp.arrays(bool, shape)
)


@given(dense_masks)
def test_round_trip_of_any_overlapping_masks(dense: np.ndarray) -> None:
    masks = from_masks(list(dense), *dense.shape[1:])
    np.testing.assert_array_equal(masks.dense(), dense)
    np.testing.assert_array_equal(masks.table["area"], dense.sum(axis=(1, 2)))


@given(dense_masks, st.integers(1, 5), st.randoms(use_true_random=False))
def test_histograms_agree_with_counting(dense: np.ndarray, classes: int, random: object) -> None:
    height, width = dense.shape[1:]
    labels = np.random.default_rng(random.randint(0, 9)).integers(0, classes + 2, (height, width))  # type: ignore[attr-defined]
    expected = np.array([[np.sum(labels[mask] == c) for c in range(classes)] for mask in dense]).reshape(-1, classes)
    np.testing.assert_array_equal(from_masks(list(dense), height, width).histograms(labels, classes), expected)


@given(dense_masks, st.data())
def test_select_keeps_the_masks_in_order(dense: np.ndarray, data: st.DataObject) -> None:
    masks = from_masks(list(dense), *dense.shape[1:])
    keep = data.draw(hnp.arrays(bool, len(dense)))
    np.testing.assert_array_equal(masks.select(keep).dense(), dense[keep])


@given(hnp.arrays(bool, st.tuples(st.integers(1, 5), st.integers(1, 12))), st.integers(0, 12))
def test_cyclic_box_is_tight_and_rolls_with_the_mask(mask: np.ndarray, shift: int) -> None:
    width = mask.shape[1]
    x, y, w, h = mask_box(mask, cyclic=True)
    inside = np.zeros_like(mask)
    inside[y : y + h, np.arange(x, x + w) % width] = True
    assert not (mask & ~inside).any()
    rolled = mask_box(np.roll(mask, shift, axis=1), cyclic=True)
    assert rolled[1:] == (y, w, h)


def test_no_masks_and_empty_masks() -> None:
    assert len(empty(4, 6)) == 0
    assert empty(4, 6).dense().shape == (0, 4, 6)
    assert not empty(4, 6).covered().any()
    blank = from_masks([np.zeros((4, 6), bool)], 4, 6)
    assert blank.planes.shape == (1, 4, 6)
    np.testing.assert_array_equal(blank.dense(), np.zeros((1, 4, 6), bool))
    assert blank.filtered(min_area=1).dense().shape == (0, 4, 6)


def test_disjoint_masks_share_a_plane_and_nested_ones_do_not() -> None:
    outer, inner, beside = (np.zeros((6, 6), bool) for _ in range(3))
    outer[:, :4], inner[2, 2], beside[:, 5] = True, True, True
    assert from_masks([outer, inner, beside], 6, 6).table["plane"].tolist() == [0, 1, 0]


def test_filter_passes_unknown_quality() -> None:
    masks = from_masks([np.ones((2, 2), bool)] * 3, 2, 2, predicted_iou=[0.9, 0.5, np.nan])
    assert len(masks.filtered(predicted_iou=0.9)) == 2


def test_too_many_masks_and_wrong_shapes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.geometry.masks.MAX_MASKS", 3)
    assert len(from_masks([np.ones((1, 1), bool)] * 3, 1, 1)) == 3
    with pytest.raises(ImageError, match="more than 3 masks"):
        from_masks([np.ones((1, 1), bool)] * 4, 1, 1)
    with pytest.raises(ValueError, match=r"mask 1 is \(2, 3\)"):
        from_masks([np.ones((2, 2), bool), np.ones((2, 3), bool)], 2, 2)
    with pytest.raises(ValueError, match="uint16"):
        MaskSet(np.zeros((1, 2, 2), np.int32), empty(2, 2).table)
