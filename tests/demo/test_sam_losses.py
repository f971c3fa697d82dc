"""Mask losses and dense targets: values computed by hand, and gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from demo.sam.losses import LossWeights, dense_targets, mask_iou, mask_loss, prompt_loss

DICE = LossWeights(dice=1, balanced=0, scaled=0)
BALANCED = LossWeights(dice=0, balanced=1, scaled=0)
SCALED = LossWeights(dice=0, balanced=0, scaled=1)


def corner(side: int = 4, inside: int = 2) -> torch.Tensor:
    target = torch.zeros(side, side)
    target[:inside, :inside] = 1
    return target


def test_values_at_zero_logits() -> None:
    target, logits = corner(), torch.zeros(4, 4)
    assert mask_loss(logits, target, DICE).item() == pytest.approx(1 - (2 * 2 + 1) / (8 + 4 + 1))
    assert mask_loss(logits, target, BALANCED).item() == pytest.approx(2 * math.log(2))
    assert mask_loss(logits, target, SCALED).item() == pytest.approx(16 * math.log(2) / math.sqrt(4 * 16))
    both = mask_loss(logits, target, LossWeights(dice=2, balanced=3, scaled=0)).item()
    assert both == pytest.approx(2 * (1 - 5 / 13) + 6 * math.log(2))


@pytest.mark.parametrize("weights", [DICE, BALANCED, SCALED])
def test_a_perfect_mask_has_no_loss_and_an_empty_mask_has(weights: LossWeights) -> None:
    target = corner(16, 2)
    assert mask_loss((target - 0.5) * 40, target, weights).item() == pytest.approx(0, abs=1e-4)
    assert mask_loss(torch.full((16, 16), -6.0), target, weights).item() > 0.5


@pytest.mark.parametrize("weights", [DICE, BALANCED, SCALED])
def test_gradients(weights: LossWeights) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    target = torch.rand(2, 3, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: mask_loss(x, target, weights), (logits,))


def test_the_balanced_loss_has_equal_gradients_inside_and_outside() -> None:
    logits = torch.zeros(16, 16, requires_grad=True)
    target = corner(16, 2)
    mask_loss(logits, target, BALANCED).backward()
    assert logits.grad is not None
    inside = logits.grad[target > 0].sum().item()
    outside = logits.grad[target == 0].sum().item()
    assert inside == pytest.approx(-0.5)
    assert outside == pytest.approx(0.5)


def test_iou() -> None:
    logits = torch.full((4, 4), -1.0)
    logits[:2, :3] = 1
    assert mask_iou(logits, corner()).item() == pytest.approx(4 / 6)
    assert mask_iou(logits - 9, torch.zeros(4, 4)).item() == 0


def test_only_the_best_of_three_masks_has_a_gradient_and_the_single_mask_for_boxes() -> None:
    target = corner()[None].expand(2, -1, -1)
    logits = torch.stack([torch.zeros(4, 4), torch.zeros(4, 4), (corner() - 0.5) * 4, torch.ones(4, 4)])
    logits = logits.expand(2, -1, -1, -1).clone().requires_grad_()
    predicted = torch.zeros(2, 4, requires_grad=True)
    loss, iou = prompt_loss(logits, predicted, target, torch.tensor([False, True]), SCALED)
    assert iou[0].tolist() == pytest.approx([0, 0, 1, 0.25])
    loss.sum().backward()
    assert logits.grad is not None
    assert predicted.grad is not None
    has_gradient = logits.grad.abs().sum((2, 3)) > 0
    assert has_gradient.tolist() == [[False, False, True, False], [True, False, True, False]]
    torch.testing.assert_close(predicted.grad, -2 * iou / 4)
    single = mask_loss(logits[1, 0], target[1], SCALED)
    assert (loss[1] - loss[0]).item() == pytest.approx(single.item())


def test_boundaries_and_offsets_of_a_small_case() -> None:
    segments = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]], np.int32)
    boundary, offset, weight = dense_targets(segments)
    np.testing.assert_array_equal(boundary, [[0, 1, 1], [1, 1, 1], [1, 1, 1]])
    np.testing.assert_allclose(offset[:, 0, 0] * 16, [0.5, 0.5])
    np.testing.assert_allclose(offset[:, 1, 2] * 16, [0, -0.5])
    assert weight.mean() == pytest.approx(1)
    assert weight[0, 2] / weight[0, 0] == pytest.approx(math.sqrt(2))
