"""Boundary enhancement and regions: against their slow versions, and across the seam."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.geometry.boundaries import label_boundary
from pipeline.geometry.masks import MaskSet, from_masks
from pipeline.geometry.windows import Window
from stages.fuse.boundary import ViewLabels, inpaint_boundary_band, refine
from stages.fuse.regions import connected_components, find_regions, small_unmasked_components, soft_votes
from tests.fuse import reference_rules as reference
from tests.geometry.helpers import dense_stack

STRIDE = 2


def scene(seed: int) -> tuple[np.ndarray, np.ndarray, list[ViewLabels], tuple[int, int]]:
    """`B_SAM`, labels, and views all around (some not of full height) that cover most of their windows."""
    rng = np.random.default_rng(seed)
    height, width = int(rng.integers(2, 9)), 16
    grid = -(-height // STRIDE), width // STRIDE
    views = []
    for x0 in range(0, grid[1], 2):
        top = int(rng.integers(0, grid[0]))
        shape = grid[0] - top, 4
        blocks = np.repeat(rng.integers(0, 2, (shape[0], 2)), 2, axis=1).astype(np.uint8)
        views.append(ViewLabels(Window(top, x0, *shape), blocks, rng.random(shape) < 0.9))
    views.append(ViewLabels(Window(0, 0, *grid), rng.integers(0, 2, grid).astype(np.uint8), np.ones(grid, bool)))
    labels = np.repeat(rng.integers(0, 2, (height, 4)), 4, axis=1).astype(np.uint8)
    return rng.random((height, width)) < 0.2, labels, views, grid


@given(st.integers(0, 10**6), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_refining_agrees_with_the_reference(seed: int, radius: int) -> None:
    sam, labels, views, grid = scene(seed)
    expected = reference.refine(sam, labels, views, grid, radius)
    np.testing.assert_array_equal(refine(sam, labels, views, grid, radius), expected)


@given(st.integers(0, 10**6), st.integers(0, 7))
@settings(max_examples=30, deadline=None)
def test_refining_rolls_with_the_panorama(seed: int, steps: int) -> None:
    sam, labels, views, grid = scene(seed)
    rolled = [
        view._replace(window=Window(view.window.y0, (view.window.x0 + steps) % grid[1], *view.labels.shape))
        for view in views[:-1]
    ]
    whole = views[-1]
    rolled.append(ViewLabels(whole.window, np.roll(whole.labels, steps, axis=1), whole.covered))
    columns = steps * STRIDE
    found = refine(np.roll(sam, columns, axis=1), np.roll(labels, columns, axis=1), rolled, grid, 1)
    np.testing.assert_array_equal(found, np.roll(refine(sam, labels, views, grid, 1), columns, axis=1))


def test_texture_is_dropped_and_boundaries_that_sam_lacks_are_added() -> None:
    labels = np.zeros((8, 64), np.uint8)
    labels[:, 16:32] = 1
    labels[:, 40:48] = 2
    view = ViewLabels(Window(0, 0, 8, 64), labels, np.ones(labels.shape, bool))
    sam = np.zeros(labels.shape, bool)
    sam[:, [5, 17, 31]] = True  # texture; an edge of class 1, a little beside it; its other edge
    refined = refine(sam, labels, [view], (8, 64), 2)
    assert np.flatnonzero(refined.all(axis=0)).tolist() == [17, 31, 39, 47]
    assert refined.sum() == 4 * 8
    # One of two views is enough for a boundary of SAM, and too few for one that SAM lacks.
    unchanging = ViewLabels(view.window, np.zeros_like(labels), view.covered)
    assert np.flatnonzero(refine(sam, labels, [view, unchanging], (8, 64), 2).all(axis=0)).tolist() == [17, 31]
    assert not refine(sam, labels, [view, unchanging, unchanging], (8, 64), 2).any()


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(0, 11))
@settings(max_examples=40, deadline=None)
def test_inpainting_agrees_with_the_reference_and_rolls(seed: int, radius: int, shift: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(3, 6, 12)).astype(np.float32)
    region_ids = np.repeat(rng.integers(0, 3, (6, 4)), 3, axis=1)
    boundary = rng.random((6, 12)) < 0.15
    inpainted = inpaint_boundary_band(values, region_ids, boundary, radius)
    np.testing.assert_allclose(inpainted, reference.inpaint(values, region_ids, boundary, radius), atol=1e-5)
    rolled = inpaint_boundary_band(*(np.roll(a, shift, axis=-1) for a in (values, region_ids, boundary)), radius)
    np.testing.assert_array_equal(rolled, np.roll(inpainted, shift, axis=-1))


def test_inpainting_moves_an_edge_onto_the_mask() -> None:
    region_ids = np.zeros((8, 32), np.int32)
    region_ids[:, 10:20] = 1
    bled = np.where((np.arange(32) >= 8) & (np.arange(32) < 22), 1.0, 0.0)  # two pixels too far on either side
    values = np.log(np.stack([1.1 - bled, 0.1 + bled]))[:, None].repeat(8, axis=1).astype(np.float32)
    inpainted = inpaint_boundary_band(values, region_ids, label_boundary(region_ids), 4)
    np.testing.assert_array_equal(inpainted.argmax(axis=0), region_ids)
    assert (values.argmax(axis=0) != region_ids).sum() == 8 * 4


def test_a_region_that_is_all_band_keeps_its_prediction() -> None:
    region_ids = np.zeros((8, 32), np.int32)
    region_ids[:, 15:17] = 1
    values = np.random.default_rng(0).normal(size=(2, 8, 32)).astype(np.float32)
    inpainted = inpaint_boundary_band(values, region_ids, label_boundary(region_ids), 3)
    np.testing.assert_array_equal(inpainted[:, :, 15:17], values[:, :, 15:17])
    assert (inpainted[:, :, 13] != values[:, :, 13]).all()


def random_masks(seed: int, count: int) -> MaskSet:
    rng = np.random.default_rng(seed)
    return from_masks(list(rng.random((count, 6, 8)) < rng.random((count, 1, 1))), 6, 8)


@given(st.integers(0, 10**6), st.integers(0, 7))
@settings(deadline=None)
def test_a_region_is_what_lies_in_the_same_masks(seed: int, count: int) -> None:
    masks = random_masks(seed, count)
    regions = find_regions(masks)
    dense = dense_stack(masks)
    same = (dense[:, :, :, None, None] == dense[:, None, None]).all(axis=0)
    np.testing.assert_array_equal(same, regions.index[:, :, None, None] == regions.index)
    for y, x in np.ndindex(6, 8):
        held = regions.masks[regions.index[y, x]]
        assert sorted(held[held > 0] - 1) == np.flatnonzero(dense[:, y, x]).tolist()
    assert set(np.unique(regions.index)) == set(range(len(regions.masks)))


@given(st.integers(0, 10**6), st.integers(0, 7))
@settings(deadline=None)
def test_soft_votes_are_sums_over_pixels(seed: int, count: int) -> None:
    masks, rng = random_masks(seed, count), np.random.default_rng(seed)
    regions = find_regions(masks)
    weight, votes = rng.integers(0, 5, (6, 8)), rng.random((3, 3, 4)).astype(np.float32)
    found = regions.sum_over_regions(soft_votes(regions, weight, votes))
    pixels = np.repeat(np.repeat(votes, 2, axis=1), 2, axis=2)
    expected = [(weight * pixels * mask).sum(axis=(1, 2)) for mask in masks]
    np.testing.assert_allclose(found, np.reshape(expected, (count, 3)), atol=1e-5)


@given(st.integers(0, 10**6))
@settings(deadline=None)
def test_connected_components_cross_the_seam(seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 2, (5, 7)).astype(np.uint8)
    components = connected_components(labels)
    expected = np.full(labels.shape, -1)
    for start in np.ndindex(labels.shape):
        if expected[start] >= 0:
            continue
        number, todo = int(expected.max()) + 1, [start]
        while todo:
            y, x = todo.pop()
            if expected[y, x] < 0:
                expected[y, x] = number
                around = [(y, (x + 1) % 7), (y, (x - 1) % 7), (y + 1, x), (y - 1, x)]
                todo += [p for p in around if 0 <= p[0] < 5 and labels[p] == labels[y, x]]
    np.testing.assert_array_equal(components[:, :, None, None] == components, expected[:, :, None, None] == expected)
    assert set(np.unique(components)) == set(range(components.max() + 1))


def test_a_protected_component_is_small_confident_and_without_a_mask() -> None:
    labels = np.zeros((10, 40), np.uint8)
    components = {"protected": (4, 7), "large": (8, 18), "doubtful": (22, 25), "masked": (30, 33), "seam": (38, 42)}
    for a, b in components.values():
        labels[3:7, np.arange(a, b) % 40] = 1
    confidence = np.full(labels.shape, 255, np.uint8)
    confidence[:, 22:25] = 100
    mask, wide_mask = np.zeros((2, 10, 40), bool)
    mask[3:7, 30:32] = True
    wide_mask[:, :20] = True
    regions = find_regions(from_masks([mask, wide_mask], 10, 40))
    found = small_unmasked_components(labels, confidence, regions, 20, 0.7, 0.5)
    columns = np.flatnonzero(found.any(axis=0)).tolist()
    assert columns == [0, 1, 4, 5, 6, 38, 39]
    np.testing.assert_array_equal(found[:, columns], labels[:, columns] == 1)
