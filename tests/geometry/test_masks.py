"""Mask sets are lossless, and their fast operations agree with dense masks."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import ImageError
from pipeline.geometry.masks import Mask, MaskSet, from_crops, from_masks, mask_box
from tests.geometry.helpers import dense_stack

dense_masks = st.tuples(st.integers(0, 9), st.integers(1, 7), st.integers(1, 9)).flatmap(
    lambda shape: hnp.arrays(bool, shape)
)


@given(dense_masks)
def test_round_trip_of_any_overlapping_masks(dense: np.ndarray) -> None:
    masks = from_masks(list(dense), *dense.shape[1:])
    np.testing.assert_array_equal(dense_stack(masks), dense)
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
    np.testing.assert_array_equal(dense_stack(masks.select(keep)), dense[keep])


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
    no_masks = from_crops([], 4, 6)
    assert len(no_masks) == 0
    assert no_masks.shape == (4, 6)
    assert not no_masks.covered().any()
    blank = from_masks([np.zeros((4, 6), bool)], 4, 6)
    assert blank.planes.shape == (1, 4, 6)
    np.testing.assert_array_equal(blank.mask(0), np.zeros((4, 6), bool))
    assert blank.crop(0).area == 0
    assert blank.filtered(min_area=1).planes.shape == (0, 4, 6)


@given(dense_masks, st.booleans())
def test_crops_are_the_masks_in_their_boxes(dense: np.ndarray, cyclic: bool) -> None:
    height, width = dense.shape[1:]
    scores = np.linspace(0, 1, len(dense))
    masks = from_masks(list(dense), height, width, cyclic=cyclic, stability_score=scores)
    for k, expected in enumerate(dense):
        mask = masks.crop(k)
        pixels = np.zeros((height, width), bool)
        columns = (mask.x + np.arange(mask.crop.shape[1])) % width
        pixels[mask.y : mask.y + mask.crop.shape[0], columns] = mask.crop
        np.testing.assert_array_equal(pixels, expected)
        assert (mask.area, mask.stability_score) == (expected.sum(), np.float32(scores[k]))
        if not cyclic:
            np.testing.assert_array_equal(mask.dense((height, width)), expected)
    again = from_crops([masks.crop(k) for k in range(len(masks))], height, width)
    np.testing.assert_array_equal(again.planes, masks.planes)


def test_a_trimmed_mask_keeps_its_pixels_scores_and_no_larger_array() -> None:
    pixels = np.zeros((6, 8), bool)
    pixels[2:4, [0, 1, 7]] = True
    mask = Mask(pixels, 10, 20, 0.5, 0.25, (3.0, 4.0))
    plain, cyclic = mask.trimmed(), mask.trimmed(cyclic=True)
    assert (plain.x, plain.y, plain.crop.shape, plain.box) == (10, 22, (2, 8), (10, 22, 17, 23))
    assert (cyclic.x, cyclic.y, cyclic.crop.shape, cyclic.crop.all()) == (17, 22, (2, 3), True)
    assert (cyclic.predicted_iou, cyclic.stability_score, cyclic.point) == (0.5, 0.25, (3.0, 4.0))
    assert plain.crop.base is None


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
        MaskSet(np.zeros((1, 2, 2), np.int32), from_crops([], 2, 2).table)
