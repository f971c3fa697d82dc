"""Merging view masks to panorama masks."""

from __future__ import annotations

import numpy as np

from pipeline.geometry.boundaries import label_boundary
from pipeline.geometry.masks import MaskSet, from_masks
from pipeline.geometry.views import View, ViewSettings, make_views
from pipeline.geometry.windows import Window
from stages.precompute import merge as module
from stages.precompute.generators.felzenszwalb import from_partition
from stages.precompute.merge import project_to_panorama

SIZE = (24, 128)
VIEWS = make_views(ViewSettings(width=48, stride=32), *SIZE)


def merge(
    sets: list[MaskSet],
    views: tuple[View, ...],
    size: tuple[int, int],
    merge_iou_thresh: float,
    nms_iou_thresh: float = 1.0,
) -> MaskSet:
    return module.merge_view_masks(
        [project_to_panorama(m, v, size) for m, v in zip(sets, views, strict=True)],
        size,
        merge_iou_thresh,
        nms_iou_thresh,
    )


def sam_boundary(sets: list[MaskSet], views: tuple[View, ...], size: tuple[int, int]) -> np.ndarray:
    return module.sam_boundary([project_to_panorama(m, v, size) for m, v in zip(sets, views, strict=True)], size)


def window_masks(panorama_masks: list[np.ndarray], views: tuple[Window, ...] = VIEWS) -> list[MaskSet]:
    """Returns the masks of a perfect generator in each window."""
    sets = []
    for view in views:
        parts = [part for mask in panorama_masks if (part := view.extract(mask)).any()]
        sets.append(from_masks(parts, view.height, view.width))
    return sets


def box(y: int, x: int, h: int, w: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y : y + h, np.arange(x, x + w) % SIZE[1]] = True
    return mask


def test_a_mask_over_all_windows_and_one_across_the_seam_become_one() -> None:
    truth = [box(0, 0, 8, 128), box(10, 110, 6, 40), box(12, 50, 4, 5), box(18, 60, 6, 50)]
    merged = merge(window_masks(truth), VIEWS, SIZE, 0.6)
    assert len(merged) == len(truth)
    for mask in truth:
        assert any(np.array_equal(mask, other) for other in merged)
    seam = next(k for k in range(4) if np.array_equal(merged.mask(k), truth[1]))
    row = merged.table[seam]
    assert [int(row[f"box_{s}"]) for s in "xywh"] == [110, 10, 40, 6]


def test_masks_that_disagree_stay_apart() -> None:
    left, right = Window(0, 0, 24, 80), Window(0, 64, 24, 80)
    a, b = np.zeros((24, 80), bool), np.zeros((24, 80), bool)
    a[:, 60:80] = True  # covers the whole overlap 64..80
    b[:4, 0:16] = True  # a sixth of it
    sets = [from_masks([a], 24, 80), from_masks([b], 24, 80)]
    assert len(merge(sets, (left, right), SIZE, 0.6)) == 2
    assert len(merge(sets, (left, right), SIZE, 0.1)) == 1


def test_merging_rolls_with_the_panorama() -> None:
    rng = np.random.default_rng(0)
    partition = np.kron(rng.permutation(3 * 16).reshape(3, 16), np.ones((8, 8), int))
    base = merge([from_partition(_consecutive(v.extract(partition))) for v in VIEWS], VIEWS, SIZE, 0.6)
    for steps in range(1, 4):
        rolled = np.roll(partition, 32 * steps, axis=1)
        other = merge([from_partition(_consecutive(v.extract(rolled))) for v in VIEWS], VIEWS, SIZE, 0.6)
        expected = {np.roll(mask, 32 * steps, axis=1).tobytes() for mask in base}
        assert {mask.tobytes() for mask in other} == expected


def _consecutive(segments: np.ndarray) -> np.ndarray:
    return np.unique(segments, return_inverse=True)[1].reshape(segments.shape)


def test_no_masks() -> None:
    nothing = [from_masks([], 24, 48) for _ in VIEWS]
    assert len(merge(nothing, VIEWS, SIZE, 0.6)) == 0
    assert not sam_boundary(nothing, VIEWS, SIZE).any()


def test_scores_are_weighted_by_area_and_unknown_ones_stay_unknown() -> None:
    mask = box(0, 0, 8, 128)
    sets = window_masks([mask])
    for k, masks in enumerate(sets):
        masks.table["predicted_iou"] = 0.5 + k / 10
    merged = merge(sets, VIEWS, SIZE, 0.6)
    np.testing.assert_allclose(merged.table["predicted_iou"], np.mean([0.5, 0.6, 0.7, 0.8]), rtol=1e-6)
    assert np.isnan(merged.table["stability_score"]).all()


def test_the_boundary_has_no_window_edges_and_rolls() -> None:
    truth = [box(4, 100, 10, 60), box(0, 20, 24, 60)]
    boundary = sam_boundary(window_masks(truth), VIEWS, SIZE)
    outline = label_boundary(truth[0].astype(np.uint8)) | label_boundary(truth[1].astype(np.uint8))
    np.testing.assert_array_equal(boundary, outline)
    rolled = sam_boundary(window_masks([np.roll(m, 64, axis=1) for m in truth]), VIEWS, SIZE)
    np.testing.assert_array_equal(rolled, np.roll(boundary, 64, axis=1))


def test_of_two_similar_panorama_masks_the_better_is_kept() -> None:
    whole = Window(0, 0, 24, 128)
    one, other, apart = box(2, 120, 10, 20), box(2, 120, 10, 19), box(2, 120, 10, 10)
    sets = [from_masks([one, other, apart], 24, 128, predicted_iou=[0.7, 0.9, 0.8], cyclic=True)]
    remaining = {mask.tobytes() for mask in merge(sets, (whole,), SIZE, 0.6, nms_iou_thresh=0.9)}
    assert remaining == {other.tobytes(), apart.tobytes()}
    assert len(merge(sets, (whole,), SIZE, 0.6, nms_iou_thresh=0.4)) == 1
    assert len(merge(sets, (whole,), SIZE, 0.6)) == 3


def test_removing_duplicates_agrees_with_all_pairs() -> None:
    rng = np.random.default_rng(7)
    shapes = [(int(y), int(x), int(h), int(w)) for y, x, h, w in rng.integers((0, 0, 3, 3), (8, 128, 9, 12), (60, 4))]
    truth = [box(*shape) for shape in shapes]
    scores = list(rng.permutation(60) / 60)
    sets = [from_masks(truth, *SIZE, predicted_iou=scores, cyclic=True)]
    expected: list[np.ndarray] = []
    for k in sorted(range(60), key=lambda k: -scores[k]):
        ious = [(truth[k] & other).sum() / (truth[k] | other).sum() for other in expected]
        if max(ious, default=0) <= 0.4:
            expected.append(truth[k])
    found = merge(sets, (Window(0, 0, *SIZE),), SIZE, 0.6, nms_iou_thresh=0.4)
    assert {mask.tobytes() for mask in found} == {mask.tobytes() for mask in expected}


def test_objects_of_a_full_sphere_are_merged_from_perspective_views() -> None:
    size = (128, 256)
    rows, columns = np.mgrid[: size[0], : size[1]]

    def disc(y: int, x: int, radius: int) -> np.ndarray:
        across = (columns - x + 128) % 256 - 128
        return (rows - y) ** 2 + across**2 < radius**2

    truth = [disc(64, 0, 20), disc(40, 100, 14), disc(90, 200, 10), rows >= 110]
    views = make_views(ViewSettings(kind="perspective", size=128, fov=90, views_per_pitch=8), *size)
    sets = []
    for view in views:
        view_masks = []
        for mask in truth:
            pixels = view.extract_image(np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))[..., 0] > 127
            if pixels.sum() > 4:
                view_masks.append(pixels)
        sets.append(from_masks(view_masks, 128, 128))
    merged = merge(sets, views, size, 0.6)
    for mask in truth:
        ious = [(mask & other).sum() / (mask | other).sum() for other in merged]
        assert max(ious) > 0.9
    assert len(merged) == len(truth)
    boundary = sam_boundary(sets, views, size)
    outline = np.any([label_boundary(mask.astype(np.uint8)) for mask in truth], axis=0)
    assert boundary.mean() < 3 * outline.mean()  # the views' own edges are not in it
