"""Lifting window masks to the ring."""

from __future__ import annotations

import numpy as np

from pipeline.masks import MaskSet, from_masks
from pipeline.views import ViewSettings, Window, make_views
from stages.precompute.generators.felzenszwalb import from_partition
from stages.precompute.lift import lift, sam_boundary

SIZE = (24, 128)
VIEWS = make_views(ViewSettings(width=48, stride=32), *SIZE)


def window_masks(panorama_masks: list[np.ndarray], views: tuple[Window, ...] = VIEWS) -> list[MaskSet]:
    """What a perfect generator would see of the panorama's masks in each window."""
    sets = []
    for view in views:
        seen = [part for mask in panorama_masks if (part := view.extract(mask)).any()]
        sets.append(from_masks(seen, view.height, view.width))
    return sets


def box(y: int, x: int, h: int, w: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y : y + h, np.arange(x, x + w) % SIZE[1]] = True
    return mask


def test_a_mask_over_all_windows_and_one_across_the_seam_come_out_whole() -> None:
    truth = [box(0, 0, 8, 128), box(10, 110, 6, 40), box(12, 50, 4, 5), box(18, 60, 6, 50)]
    lifted = lift(window_masks(truth), VIEWS, SIZE, 0.6)
    assert len(lifted) == len(truth)
    for mask in truth:
        assert any(np.array_equal(mask, other) for other in lifted)
    seam = next(k for k in range(4) if np.array_equal(lifted.mask(k), truth[1]))
    row = lifted.table[seam]
    assert [int(row[f"box_{s}"]) for s in "xywh"] == [110, 10, 40, 6]


def test_masks_that_disagree_stay_apart() -> None:
    left, right = Window(0, 0, 24, 80), Window(0, 64, 24, 80)
    a, b = np.zeros((24, 80), bool), np.zeros((24, 80), bool)
    a[:, 60:80] = True  # covers the whole overlap 64..80
    b[:4, 0:16] = True  # a sixth of it
    sets = [from_masks([a], 24, 80), from_masks([b], 24, 80)]
    assert len(lift(sets, (left, right), SIZE, 0.6)) == 2
    assert len(lift(sets, (left, right), SIZE, 0.1)) == 1


def test_lifting_rolls_with_the_panorama() -> None:
    rng = np.random.default_rng(0)
    partition = np.kron(rng.permutation(3 * 16).reshape(3, 16), np.ones((8, 8), int))
    base = lift([from_partition(_dense(v.extract(partition))) for v in VIEWS], VIEWS, SIZE, 0.6)
    for steps in range(1, 4):
        rolled = np.roll(partition, 32 * steps, axis=1)
        other = lift([from_partition(_dense(v.extract(rolled))) for v in VIEWS], VIEWS, SIZE, 0.6)
        expected = {np.roll(mask, 32 * steps, axis=1).tobytes() for mask in base}
        assert {mask.tobytes() for mask in other} == expected


def _dense(segments: np.ndarray) -> np.ndarray:
    return np.unique(segments, return_inverse=True)[1].reshape(segments.shape)


def test_no_masks() -> None:
    nothing = [from_masks([], 24, 48) for _ in VIEWS]
    assert len(lift(nothing, VIEWS, SIZE, 0.6)) == 0
    assert not sam_boundary(nothing, VIEWS, SIZE).any()


def test_scores_are_weighted_by_area_and_unknown_ones_stay_unknown() -> None:
    mask = box(0, 0, 8, 128)
    sets = window_masks([mask])
    for k, masks in enumerate(sets):
        masks.table["predicted_iou"] = 0.5 + k / 10
    lifted = lift(sets, VIEWS, SIZE, 0.6)
    np.testing.assert_allclose(lifted.table["predicted_iou"], np.mean([0.5, 0.6, 0.7, 0.8]), rtol=1e-6)
    assert np.isnan(lifted.table["stability_score"]).all()


def test_the_boundary_has_no_window_edges_and_rolls() -> None:
    truth = [box(4, 100, 10, 60), box(0, 20, 24, 60)]
    boundary = sam_boundary(window_masks(truth), VIEWS, SIZE)
    from pipeline.boundaries import label_boundary

    outline = label_boundary(truth[0].astype(np.uint8)) | label_boundary(truth[1].astype(np.uint8))
    np.testing.assert_array_equal(boundary, outline)
    rolled = sam_boundary(window_masks([np.roll(m, 64, axis=1) for m in truth]), VIEWS, SIZE)
    np.testing.assert_array_equal(rolled, np.roll(boundary, 64, axis=1))
