"""The fast functions of stage two against the slow ones, and across the seam."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from pipeline.data.labels import load_label_space
from pipeline.geometry.masks import MaskSet, from_crops, from_masks
from pipeline.geometry.views import ViewSettings, make_views
from pipeline.geometry.windows import Window
from stages.fuse.pooling import class_probabilities, likelier_window, nearest_window, pool
from stages.fuse.rules.base import FULL, FusionInput
from stages.fuse.rules.paper import Paper, ctcf
from stages.fuse.rules.ssa import Ssa
from stages.fuse.rules.ta import Ta
from stages.fuse.settings import PoolingSettings
from stages.fuse.voting import majority
from tests.fuse import reference

scenes = st.tuples(st.integers(0, 6), st.integers(1, 6), st.integers(1, 8), st.integers(1, 4), st.integers(0, 10**6))


def scene(values: tuple[int, int, int, int, int]) -> tuple[MaskSet, np.ndarray, int]:
    """Random overlapping masks and labels (ignore among them)."""
    count, height, width, classes, seed = values
    rng = np.random.default_rng(seed)
    masks = from_masks(list(rng.random((count, height, width)) < rng.random((count, 1, 1))), height, width)
    labels = rng.integers(0, classes, (height, width)).astype(np.uint8)
    return masks, labels, classes


@pytest.mark.parametrize("mode", ["arithmetic", "log"])
@pytest.mark.parametrize("views", [(24, 16), (16, 16), (32, 8), (48, 48)])
def test_pooling_agrees_with_the_reference(mode: str, views: tuple[int, int]) -> None:
    windows = make_views(ViewSettings(width=views[0], stride=views[1]), 3, 48)
    logits = np.random.default_rng(1).normal(0, 2, (len(windows), 4, 3, windows[0].width)).astype(np.float32)
    p = softmax(logits, axis=1)
    placements = [window.place((3, 48), 1) for window in windows]
    fast = pool(p, placements, (3, 48), PoolingSettings(mode=mode))
    slow, l_cc, residual = reference.pool(p, placements, (3, 48), PoolingSettings(mode=mode))
    np.testing.assert_allclose(fast.probabilities, slow, atol=2e-6)
    assert fast.l_cc == pytest.approx(l_cc, rel=1e-4, abs=1e-6)
    assert fast.residual == pytest.approx(residual, rel=1e-3, abs=1e-6)


@given(
    st.integers(0, 5),
    st.sampled_from([(24, 8), (16, 8), (40, 16)]),
    st.sampled_from(["arithmetic", "log"]),
    st.integers(0, 99),
)
@settings(max_examples=40)
def test_pooling_rolls_bit_for_bit(steps: int, views: tuple[int, int], mode: str, seed: int) -> None:
    """Rolled by a multiple of the stride, view k sees what view k - steps saw."""
    windows = make_views(ViewSettings(width=views[0], stride=views[1]), 2, 48)
    logits = np.random.default_rng(seed).normal(0, 3, (len(windows), 3, 2, views[0])).astype(np.float32)
    p = softmax(logits, axis=1)
    placements = [window.place((2, 48), 1) for window in windows]
    base = pool(p, placements, (2, 48), PoolingSettings(mode=mode)).probabilities
    rolled = pool(np.roll(p, steps, axis=0), placements, (2, 48), PoolingSettings(mode=mode)).probabilities
    np.testing.assert_array_equal(rolled, np.roll(base, steps * views[1], axis=-1))


MIXED = [
    ViewSettings(width=24, stride=16, additional=(ViewSettings(width=32, stride=16, height=8),)),
    ViewSettings(width=16, stride=8, height=8, stride_y=8),
    ViewSettings(kind="perspective", size=12, fov=100, views_per_pitch=6, pitches=(-50, 0, 50)),
    ViewSettings(kind="whole", additional=(ViewSettings(kind="perspective", size=12),)),
]


@pytest.mark.parametrize("settings", MIXED)
@pytest.mark.parametrize("mode", ["arithmetic", "log"])
def test_views_of_every_shape_pool_as_in_the_reference(settings: ViewSettings, mode: str) -> None:
    size = (24, 48)
    placements = [view.place(size, 1) for view in make_views(settings, *size)]
    rng = np.random.default_rng(5)
    p = [softmax(rng.normal(0, 2, (3, *place.weight.shape)), axis=0) for place in placements]
    fast = pool(p, placements, size, PoolingSettings(mode=mode))
    slow, l_cc, residual = reference.pool(p, placements, size, PoolingSettings(mode=mode))
    np.testing.assert_allclose(fast.probabilities, slow, atol=2e-6)
    assert fast.l_cc == pytest.approx(l_cc, rel=1e-4, abs=1e-6)
    assert fast.residual == pytest.approx(residual, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("settings", MIXED)
def test_views_of_every_shape_roll_bit_for_bit(settings: ViewSettings) -> None:
    """A panorama rolled by 16 columns, a multiple of every distance of views: what the views see moves with it."""
    size, shift = (24, 48), 16
    views = make_views(settings, *size)
    scene = np.random.default_rng(6).normal(0, 2, (3, *size)).astype(np.float32)

    def pooled(panorama: np.ndarray) -> np.ndarray:
        placements = [view.place(size, 1) for view in views]
        columns = [(p.window.x0 + np.arange(p.window.width)) % size[1] for p in placements]
        rows = [slice(p.window.y0, p.window.y0 + p.window.height) for p in placements]
        seen = [
            softmax(panorama[:, r][..., c] * (1 + p.weight), axis=0)
            for p, r, c in zip(placements, rows, columns, strict=True)
        ]
        return pool(seen, placements, size, PoolingSettings()).probabilities

    np.testing.assert_array_equal(pooled(np.roll(scene, shift, axis=2)), np.roll(pooled(scene), shift, axis=2))


def test_pixels_that_no_view_covers_are_refused() -> None:
    place = make_views(ViewSettings(kind="perspective", size=8, views_per_pitch=1, pitches=(0,)), 16, 32)[0].place(
        (16, 32), 1
    )
    p = [np.full((2, *place.weight.shape), 0.5, np.float32)]
    with pytest.raises(ValueError, match="no view covers all of rows"):
        pool(p, [place], (16, 32), PoolingSettings())


def test_agreeing_views_pool_to_themselves() -> None:
    windows = make_views(ViewSettings(width=32, stride=16), 2, 64)
    q = softmax(np.random.default_rng(0).normal(size=(5, 2, 64)), axis=0)
    p = np.stack([window.extract(q) for window in windows])
    pooled = pool(p, [window.place((2, 64), 1) for window in windows], (2, 64), PoolingSettings())
    np.testing.assert_allclose(pooled.probabilities, q, atol=1e-6)
    assert pooled.l_cc == pytest.approx(0, abs=1e-6)
    assert pooled.residual == pytest.approx(0, abs=1e-6)


def test_arithmetic_pool_minimises_its_divergence() -> None:
    """docs/method.md 3.1: q = sum a_i p_i minimises sum a_i KL(p_i || q); the log pool sum a_i KL(q || p_i)."""
    rng = np.random.default_rng(3)
    p = softmax(rng.normal(0, 2, (2, 4, 1, 8)), axis=1)
    windows = [Window(0, 0, 1, 8).place((1, 8), 1)] * 2
    plain = {"confidence": 0, "floor": 1.0}  # equal weights

    def divergence(a: np.ndarray, b: np.ndarray) -> float:
        return float((a * (np.log(a) - np.log(b))).sum())

    arithmetic = pool(p, windows, (1, 8), PoolingSettings(mode="arithmetic", **plain)).probabilities
    log = pool(p, windows, (1, 8), PoolingSettings(mode="log", **plain)).probabilities
    for _ in range(20):
        other = softmax(np.log(arithmetic) + rng.normal(0, 0.1, arithmetic.shape), axis=0)
        assert sum(divergence(q, arithmetic) for q in p) <= sum(divergence(q, other) for q in p)
        other = softmax(np.log(log) + rng.normal(0, 0.1, log.shape), axis=0)
        assert sum(divergence(log, q) for q in p) <= sum(divergence(other, q) for q in p)


def test_log_of_impossible_is_finite() -> None:
    p = np.zeros((2, 2, 1, 8), np.float32)
    p[0, 0], p[1, 1] = 1, 1
    windows = [Window(0, 0, 1, 8).place((1, 8), 1)] * 2
    for mode in ("arithmetic", "log"):
        pooled = pool(p, windows, (1, 8), PoolingSettings(mode=mode))
        np.testing.assert_allclose(pooled.probabilities, 0.5, atol=1e-6)
        assert np.isfinite([pooled.l_cc, pooled.residual]).all()


@given(scenes)
def test_votes_agree_with_the_reference(values: tuple[int, int, int, int, int]) -> None:
    masks, labels, classes = scene(values)
    expected, share = reference.vote(masks, labels, classes)
    full = FusionInput(classes, labels, masks)
    np.testing.assert_array_equal(Ssa()(full).label, expected)
    label, weight = ctcf(masks, labels, classes, 0.7)
    np.testing.assert_array_equal(label, expected)
    np.testing.assert_array_equal(weight, np.where(np.isnan(share) | (share >= 0.7), FULL, 0))


@given(scenes, st.integers(0, 8))
def test_votes_roll_with_the_panorama(values: tuple[int, int, int, int, int], shift: int) -> None:
    masks, labels, classes = scene(values)
    rolled = MaskSet(np.roll(masks.planes, shift, axis=-1), masks.table)
    expected = np.roll(Ssa()(FusionInput(classes, labels, masks)).label, shift, axis=-1)
    np.testing.assert_array_equal(Ssa()(FusionInput(classes, np.roll(labels, shift, axis=-1), rolled)).label, expected)


def test_no_masks_leave_the_ta() -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4) % 5
    inputs = FusionInput(5, labels, from_crops([], 3, 4), (Window(0, 0, 3, 4),), [labels], [from_crops([], 3, 4)])
    for rule in (Ta(), Ssa(), Paper()):
        ensemble = rule(inputs)
        np.testing.assert_array_equal(ensemble.label, labels)
        assert (ensemble.weight == FULL).all()
    assert (Ta()(inputs).gate == 0).all()
    assert (Paper()(inputs).gate == FULL).all()


def test_theta_changes_the_weight_not_the_label() -> None:
    labels = np.array([[0, 0, 0, 1, 2]], np.uint8)
    masks = from_masks([np.array([[1, 1, 1, 1, 0]], bool)], 1, 5)
    label, weight = ctcf(masks, labels, 3, 0.75)
    assert label.tolist() == [[0, 0, 0, 0, 2]]
    assert weight.tolist() == [[FULL] * 5]
    label, weight = ctcf(masks, labels, 3, 0.76)
    assert label.tolist() == [[0, 0, 0, 0, 2]]
    assert weight.tolist() == [[0, 0, 0, 0, FULL]]


def test_ignored_pixels_win_no_vote() -> None:
    labels = np.full((2, 3), 255, np.uint8)
    labels[0, 0] = 1
    votes = majority(from_masks([np.ones((2, 3), bool)], 2, 3), labels, 2)
    assert (votes.winner.tolist(), votes.share.tolist()) == ([1], [1 / 6])
    all_ignore = majority(from_masks([np.ones((2, 3), bool)], 2, 3), np.full((2, 3), 255, np.uint8), 2)
    assert all_ignore.share.tolist() == [0]


def test_masks_nested_ten_deep_are_pasted_largest_first() -> None:
    size = 24
    dense = [np.pad(np.ones((size - 2 * k, size - 2 * k), bool), k) for k in range(10)]
    labels = np.add.outer(np.arange(size), np.arange(size)).astype(np.uint8) % 7
    masks = from_masks(dense[::-1], size, size)
    assert masks.planes.shape[0] == 10
    np.testing.assert_array_equal(Ssa()(FusionInput(7, labels, masks)).label, reference.vote(masks, labels, 7)[0])


def test_each_column_is_taken_from_the_window_whose_middle_is_nearest() -> None:
    views = make_views(ViewSettings(), 4, 2048)
    window, column = nearest_window(views, 2048)
    for x in (0, 127, 128, 255, 256, 384, 2047):
        assert (views[window[x]].x0 + column[x]) % 2048 == x
        centre = {i: abs((x - v.x0) % 2048 + 0.5 - 256) for i, v in enumerate(views) if (x - v.x0) % 2048 < 512}
        assert centre[window[x]] == min(centre.values())
    np.testing.assert_array_equal(np.roll(window, 256), (window - 1) % 8)


def test_a_pixel_is_taken_from_the_window_that_is_likelier_and_farther_from_its_edge() -> None:
    rng = np.random.default_rng(0)
    views = make_views(ViewSettings(width=32, stride=16), 4, 64)
    labels = rng.integers(0, 3, (len(views), 4, 32)).astype(np.uint8)
    log_p = np.log(rng.dirichlet(np.ones(3), (4, 64)).transpose(2, 0, 1)).astype(np.float32)
    window, column = likelier_window(views, labels, log_p)
    for y, x in np.ndindex(4, 64):
        assert (views[window[y, x]].x0 + column[y, x]) % 64 == x
        scores = {
            (np.exp(log_p[labels[i, y, own], y, x]) * min(own + 1, 32 - own), own): i
            for i, view in enumerate(views)
            if (own := (x - view.x0) % 64) < 32
        }
        best = max(score for score, _ in scores)
        near = {i for (score, _), i in scores.items() if score > best * (1 - 1e-5)}
        assert window[y, x] in near
    rolled = likelier_window(views, np.roll(labels, 1, axis=0), np.roll(log_p, 16, axis=2))
    np.testing.assert_array_equal(np.roll((window + 1) % 4, 16, axis=1), rolled[0])
    np.testing.assert_array_equal(np.roll(column, 16, axis=1), rolled[1])


def test_windows_that_agree_are_parted_at_their_middle() -> None:
    views = make_views(ViewSettings(), 4, 2048)
    window, column = likelier_window(views, np.ones((8, 4, 512), np.uint8), np.zeros((3, 4, 2048), np.float32))
    for x in (0, 127, 128, 255, 256, 384, 2047):
        centre = {i: abs((x - v.x0) % 2048 + 0.5 - 256) for i, v in enumerate(views) if (x - v.x0) % 2048 < 512}
        assert centre[window[0, x]] == min(centre.values())
        assert (views[window[0, x]].x0 + column[0, x]) % 2048 == x


def test_mapping_to_another_label_space_sums_probabilities() -> None:
    source, target = load_label_space("cityscapes19"), load_label_space("densepass13")
    logits = np.random.default_rng(0).normal(size=(19, 3, 4))
    mapped = class_probabilities(logits, source, target)
    assert mapped.shape == (13, 3, 4)
    np.testing.assert_allclose(mapped.sum(axis=0), 1, rtol=1e-5)
