"""Every fusion rule: against its slow version, across the seam, and on degenerate input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from pipeline.core.settings import OldNameWarning
from pipeline.geometry.masks import MaskSet, from_crops, from_masks
from pipeline.geometry.windows import Window
from stages.fuse.rules.base import FULL, Ensemble, FusionInput, FusionRule
from stages.fuse.rules.best import SoftMaskVote
from stages.fuse.rules.goodsampp import GoodSamPp
from stages.fuse.rules.sepl import Sepl
from stages.fuse.rules.sgml import Sgml
from stages.fuse.settings import RULES as GROUP
from stages.fuse.soft import encode_ensemble, ramp
from tests.fuse import reference_rules as reference

STRIDE = 4
RULES: list[FusionRule] = [GROUP.default(kind) for kind in GROUP.known_kinds()]  # type: ignore[misc]
RULES += [
    SoftMaskVote(inpaint_radius=2),
    SoftMaskVote(full_vote_distance=1, protected_area=0.2, protected_confidence=0),
]
RULES += [SoftMaskVote(protected_area=0)]


def scene(seed: int, *, masks: int = 6, classes: int = 4, height: int = 14, width: int = 32) -> FusionInput:
    """A blocky prediction; overlapping rectangles as masks, some across the seam; windows of half the width."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (classes, -(-height // STRIDE), width // STRIDE)).astype(np.float32)
    stitched = (logits - np.log(np.exp(logits).sum(axis=0))).astype(np.float16).astype(np.float32)
    dense = []
    for _ in range(masks):
        y, x, h, w = (
            rng.integers(0, height),
            rng.integers(0, width),
            rng.integers(1, height + 1),
            rng.integers(1, width),
        )
        mask = np.zeros((height, width), bool)
        mask[y : y + h, (x + np.arange(w)) % width] = True
        dense.append(mask)
    scores = {name: list(rng.random(masks)) for name in ("predicted_iou", "stability_score")}
    found = from_masks(dense, height, width, cyclic=True, **(scores if seed % 2 else {}))
    things = tuple(bool(c % 2) for c in range(classes))
    inputs = FusionInput.of_stitched(stitched, STRIDE, height, things)
    windows = [Window(0, x, height, width // 2) for x in range(0, width, width // 4)]
    return replace(
        inputs,
        masks=found,
        boundary=rng.random((height, width)) < 0.2,
        windows=windows,
        window_labels=[np.ascontiguousarray(window.extract(inputs.labels)) for window in windows],
        window_masks=[in_window(found, window) for window in windows],
    )


def in_window(masks: MaskSet, window: Window) -> MaskSet:
    parts = [window.extract(mask) for mask in masks]
    return from_masks([part for part in parts if part.any()], window.height, window.width)


def roll(inputs: FusionInput, steps: int) -> FusionInput:
    """Returns the panorama rolled by `steps` of the windows' stride."""
    assert inputs.masks is not None
    assert inputs.stitched is not None
    assert inputs.boundary is not None
    width = inputs.labels.shape[1]
    columns = steps * width // 4
    return replace(
        FusionInput.of_stitched(
            np.roll(inputs.stitched, columns // STRIDE, axis=-1), STRIDE, inputs.labels.shape[0], inputs.things
        ),
        masks=MaskSet(np.roll(inputs.masks.planes, columns, axis=-1), inputs.masks.table),
        boundary=np.roll(inputs.boundary, columns, axis=-1),
        windows=[replace(window, x0=(window.x0 + columns) % width) for window in inputs.windows],
        window_labels=inputs.window_labels,
        window_masks=inputs.window_masks,
    )


def soft(inputs: FusionInput, ensemble: Ensemble) -> np.ndarray:
    """`E` of the factorised form, `(C, H, W)`."""
    p = softmax(inputs.log_probabilities, axis=0)
    known = ensemble.label < inputs.num_classes
    gate = np.where(known, ensemble.gate / np.float32(255), 0)
    onehot = np.eye(inputs.num_classes)[np.where(known, ensemble.label, 0)].transpose(2, 0, 1)
    return (1 - gate) * p + gate * onehot


@pytest.mark.parametrize("rule", RULES, ids=repr)
@given(seed=st.integers(0, 500), steps=st.integers(0, 3), masks=st.integers(0, 8))
@settings(max_examples=25, deadline=None)
def test_every_rule_rolls_bit_for_bit(rule: FusionRule, seed: int, steps: int, masks: int) -> None:
    inputs = scene(seed, masks=masks)
    base, rolled = rule(inputs), rule(roll(inputs, steps))
    for name in ("label", "gate", "weight"):
        np.testing.assert_array_equal(getattr(rolled, name), np.roll(getattr(base, name), steps * 8, axis=1))


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("case", ["no masks", "one mask over all", "nested", "ignored", "one class", "one pixel high"])
def test_every_rule_accepts_degenerate_input(rule: FusionRule, case: str) -> None:
    inputs = scene(1, classes=1 if case == "one class" else 4, height=1 if case == "one pixel high" else 24)
    height, width = inputs.labels.shape
    if case == "no masks":
        sets = [from_crops([], w.height, w.width) for w in inputs.windows]
        nothing = np.zeros((height, width), bool)
        inputs = replace(inputs, masks=from_crops([], height, width), window_masks=sets, boundary=nothing)
    elif case == "one mask over all":
        inputs = replace(inputs, masks=from_masks([np.ones((height, width), bool)], height, width))
    elif case == "nested":
        frames = [np.pad(np.ones((height - 2 * k, width - 2 * k), bool), k) for k in range(10)]
        inputs = replace(inputs, masks=from_masks(frames, height, width))
        assert inputs.masks is not None
        assert len(inputs.masks.planes) == 10
    elif case == "ignored":
        labels = [np.full_like(labels, 255) for labels in inputs.window_labels]
        inputs = replace(inputs, labels=np.full_like(inputs.labels, 255), window_labels=labels)
    ensemble = rule(inputs)
    for name in ("label", "gate", "weight"):
        values = getattr(ensemble, name)
        assert (values.dtype, values.shape) == (np.uint8, (height, width))
    assert ((ensemble.label < inputs.num_classes) | (ensemble.label == 255)).all()
    if case == "no masks":
        np.testing.assert_array_equal(ensemble.label, inputs.labels)


@given(st.integers(0, 10**6), st.integers(0, 6))
@settings(max_examples=30, deadline=None)
def test_best_is_its_formula(seed: int, masks: int) -> None:
    inputs, rule = scene(seed, masks=masks), SoftMaskVote(protected_area=0)
    ensemble, fused = rule(inputs), np.exp(reference.best(inputs, rule))
    first, second = np.sort(fused, axis=0)[-1], np.sort(fused, axis=0)[-2]
    clear = first > second + 1e-2
    np.testing.assert_array_equal(ensemble.label[clear], fused.argmax(axis=0)[clear])
    np.testing.assert_allclose(ensemble.weight[clear], 255 * np.clip(2 * first - 1, 0, 1)[clear], atol=4)


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_the_label_of_best_is_the_most_likely_class_of_the_stored_ensemble(seed: int) -> None:
    inputs = scene(seed)
    for rule in (SoftMaskVote(), SoftMaskVote(inpaint_radius=2), GROUP.default("boundary")):
        ensemble = rule(inputs)  # type: ignore[operator]
        np.testing.assert_array_equal(soft(inputs, ensemble).argmax(axis=0), ensemble.label)


@given(st.integers(0, 10**6), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_the_gate_gives_the_label_its_fused_probability(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    s, q = rng.normal(0, rng.uniform(0.1, 6), (2, classes, 5, 7)).astype(np.float32)
    result = encode_ensemble(s, q)
    p, wanted = softmax(s, axis=0).astype(np.float64), softmax(q, axis=0).max(axis=0)
    np.testing.assert_array_equal(result.label, q.argmax(axis=0))
    np.testing.assert_allclose(result.probability, wanted, rtol=1e-5)
    gate = result.gate / 255
    onehot = np.eye(classes)[result.label].transpose(2, 0, 1)
    ensemble = (1 - gate) * p + gate * onehot
    np.testing.assert_array_equal(ensemble.argmax(axis=0), result.label)
    given_to_label = (ensemble * onehot).sum(axis=0)
    assert (given_to_label >= wanted - 1e-5).all()
    # more than wanted only where S alone gives more, or another class would win
    free = given_to_label > wanted + 1 / 255 + 1e-5
    others = np.where(onehot > 0, 0, ensemble).max(axis=0)
    assert (~free | (gate == 0) | (given_to_label - others <= 2.1 / 255)).all()


def test_old_names_of_settings_are_read_and_stay_in_keys() -> None:
    old = {"deepest": 3, "island": 0.1, "island_confidence": 0.5, "island_mask": 0.4, "snap_radius": 2}
    with pytest.warns(OldNameWarning, match="is now named"):
        rule = SoftMaskVote.model_validate(old)
    assert (rule.full_vote_distance, rule.protected_area, rule.inpaint_radius) == (3, 0.1, 2)
    assert rule.key_parts() == {"kind": "best", **old}


def test_a_protected_region_keeps_the_ta() -> None:
    """A pole of another class, on a mask that holds it and its surroundings."""
    height, width, stride = 32, 64, 1
    stitched = np.full((2, height, width), np.log(0.02), np.float32)
    stitched[0] = np.log(0.98)
    stitched[:, 10:30, 31:33] = np.log([[[0.1]], [[0.9]]])
    inputs = replace(
        FusionInput.of_stitched(stitched, stride, height),
        masks=from_masks([np.ones((height, width), bool)], height, width),
    )
    assert (SoftMaskVote(protected_area=0)(inputs).label == 0).all()
    protected = SoftMaskVote(protected_area=0.05)(inputs).label
    np.testing.assert_array_equal(protected, inputs.labels)
    assert protected.sum() == 40
    pole = inputs.labels == 1
    with_mask = replace(inputs, masks=from_masks([np.ones((height, width), bool), pole], height, width))
    doubtful = SoftMaskVote(protected_area=0.05, protected_confidence=0.95)(inputs).label
    assert (doubtful == 0).all()
    plain, protecting = (SoftMaskVote(protected_area=area)(with_mask).label for area in (0, 0.05))
    np.testing.assert_array_equal(protecting == 1, plain == 1)


@given(st.integers(0, 10**6), st.integers(0, 8))
@settings(max_examples=40, deadline=None)
def test_rivals_agree_with_the_reference(seed: int, masks: int) -> None:
    inputs = scene(seed, masks=masks)
    label, weight = reference.goodsampp(inputs, 0.05, 0.3)
    ensemble = GoodSamPp(medium=0.05, large=0.3)(inputs)
    np.testing.assert_array_equal(ensemble.label, label)
    np.testing.assert_array_equal(ensemble.weight, weight)
    np.testing.assert_array_equal(Sepl(share=0.6)(inputs).label, reference.sepl(inputs, 0.6, 0.85))
    np.testing.assert_array_equal(Sgml(ratio=0.4)(inputs).label, reference.sgml(inputs, 0.4))


def test_sepl_leaves_pixels_of_unused_masks_out() -> None:
    labels = np.array([[0, 0, 1, 1, 2, 2, 2, 2]], np.uint8)
    undecided = np.array([[0, 1, 1, 0, 0, 0, 0, 0]], bool)
    inputs = FusionInput(3, labels, from_masks([undecided], 1, 8))
    ensemble = Sepl()(inputs)
    assert ensemble.label.tolist() == [[0, 255, 255, 1, 2, 2, 2, 2]]
    assert ensemble.weight.tolist() == [[255, 0, 0, 255, 255, 255, 255, 255]]
    assert Sepl(cover=0.5)(inputs).label.tolist() == [[0, 0, 0, 1, 2, 2, 2, 2]]


def test_a_threshold_is_that_of_its_level_and_image() -> None:
    labels = np.zeros((10, 40), np.uint8)
    labels[:, 5::10] = 1
    masks = []
    for k, wrong in enumerate((0, 2, 4)):
        mask = np.zeros(labels.shape, bool)
        mask[:, 10 * k : 10 * k + 10] = True
        labels[:wrong, 10 * k] = 1
        masks.append(mask)
    stitched = np.log(np.full((2, 10, 40), 0.5, np.float32))
    inputs = FusionInput(2, labels, from_masks(masks, 10, 40), stitched=stitched)
    weight = GoodSamPp(medium=0, large=1)(inputs).weight
    # shares 0.9, 0.88, 0.86: the mean is that of the second
    assert [weight[0, 10 * k] for k in range(4)] == [FULL, FULL, 0, FULL]


def test_the_weight_rises_from_its_threshold() -> None:
    assert ramp(np.array([0.2, 0.5, 0.75, 1], np.float32), 0.5).tolist() == [0, 0, 128, 255]
