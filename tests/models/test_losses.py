"""Values, gradients and symmetries of the MKA losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.geometry.boundaries import label_boundary
from pipeline.models import losses


def random_probs(seed: int = 0, size: tuple[int, ...] = (2, 5, 6, 8)) -> torch.Tensor:
    return torch.softmax(2 * torch.randn(size, generator=torch.Generator().manual_seed(seed)), dim=1)


def random_labels(seed: int = 0, size: tuple[int, ...] = (2, 6, 8), classes: int = 5) -> torch.Tensor:
    return torch.randint(classes, size, generator=torch.Generator().manual_seed(seed))


def one_hot(labels: torch.Tensor, classes: int = 5) -> torch.Tensor:
    return functional.one_hot(labels, classes).movedim(-1, 1).float()


def test_soft_cross_entropy_at_equality_is_the_entropy_with_zero_gradient() -> None:
    target = random_probs()
    logits = (target.log() + 3).requires_grad_()
    loss = losses.soft_cross_entropy(logits, target)
    torch.testing.assert_close(loss, -(target * target.log()).sum(1).mean())
    loss.backward()
    assert logits.grad.abs().max() < 1e-7


def test_soft_cross_entropy_is_least_at_equality() -> None:
    """What mmseg's KLDivLoss gets wrong: any other student must cost more."""
    target = random_probs()
    best = losses.soft_cross_entropy(target.log(), target)
    for seed in range(1, 20):
        assert losses.soft_cross_entropy(random_probs(seed).log(), target) > best
    assert losses.soft_cross_entropy(torch.zeros_like(target), target) > best


def test_soft_cross_entropy_on_one_hot_targets_is_hard_cross_entropy() -> None:
    logits, label = torch.randn(2, 5, 6, 8), random_labels()
    weight = torch.rand(2, 6, 8)
    torch.testing.assert_close(
        losses.soft_cross_entropy(logits, one_hot(label), weight),
        losses.hard_cross_entropy(logits, label, weight),
    )


def test_hard_cross_entropy_is_normalised_by_its_own_pixels() -> None:
    logits, label = torch.randn(2, 5, 6, 8), random_labels()
    few = torch.zeros(2, 6, 8)
    few[0, 0, :3] = 1
    expected = functional.cross_entropy(logits[:1, :, 0, :3], label[:1, 0, :3])
    torch.testing.assert_close(losses.hard_cross_entropy(logits, label, few), expected)
    torch.testing.assert_close(losses.hard_cross_entropy(logits, label, 0.25 * few), expected)
    torch.testing.assert_close(losses.hard_cross_entropy(logits, label), functional.cross_entropy(logits, label))


def test_ignored_pixels_have_no_part() -> None:
    logits = torch.randn(1, 5, 6, 8, requires_grad=True)
    label = random_labels(size=(1, 6, 8))
    label[:, 2:4] = 255
    loss = losses.hard_cross_entropy(logits, label)
    keep = label != 255
    torch.testing.assert_close(loss, functional.cross_entropy(logits.movedim(1, -1)[keep], label[keep]))
    loss.backward()
    assert logits.grad[:, :, 2:4].abs().max() == 0
    assert logits.grad[:, :, :2].abs().max() > 0


@pytest.mark.parametrize("name", ["hard", "zero weight", "soft", "boundary"])
def test_nothing_to_learn_from_is_zero_with_finite_zero_gradient(name: str) -> None:
    logits = torch.randn(1, 5, 6, 8, requires_grad=True)
    label = random_labels(size=(1, 6, 8))
    nothing = torch.zeros(1, 6, 8)
    loss = {
        "hard": lambda: losses.hard_cross_entropy(logits, torch.full_like(label, 255)),
        "zero weight": lambda: losses.hard_cross_entropy(logits, label, nothing),
        "soft": lambda: losses.soft_cross_entropy(logits, random_probs(size=(1, 5, 6, 8)), nothing),
        "boundary": lambda: losses.boundary_loss(logits.softmax(1), nothing),
    }[name]()
    assert loss == 0
    loss.backward()
    assert logits.grad.abs().max() == 0


def test_ensemble_is_the_gated_mixture() -> None:
    stitched, label, gate = random_probs(), random_labels(), torch.rand(2, 6, 8)
    label[0, 0] = 255
    ensemble = losses.ensemble_probs(stitched, label, gate)
    torch.testing.assert_close(ensemble.sum(1), torch.ones(2, 6, 8))
    torch.testing.assert_close(ensemble[0, :, 0], stitched[0, :, 0])
    g, y = gate[1, 3, 4], label[1, 3, 4]
    expected = (1 - g) * stitched[1, :, 3, 4]
    expected[y] += g
    torch.testing.assert_close(ensemble[1, :, 3, 4], expected)
    hard = losses.ensemble_probs(stitched[1:], label[1:], torch.ones(1, 6, 8))
    torch.testing.assert_close(hard, one_hot(label[1:]))


def test_sharpen_is_the_softmax_at_that_temperature() -> None:
    logits = torch.randn(1, 5, 2, 3)
    torch.testing.assert_close(losses.sharpen(logits.softmax(1), 2.0), (logits / 2).softmax(1))


def test_upsampling_knows_the_seam() -> None:
    log_probs = random_probs(size=(1, 5, 3, 8)).log()
    full = losses.upsample_log_probs(log_probs, (12, 32), cyclic=True)
    for cells in range(8):
        rolled = losses.upsample_log_probs(log_probs.roll(cells, -1), (12, 32), cyclic=True)
        torch.testing.assert_close(rolled, full.roll(4 * cells, -1))
    flipped = losses.upsample_log_probs(log_probs.flip(-1), (12, 32), cyclic=True)
    torch.testing.assert_close(flipped, full.flip(-1))
    plain = losses.upsample_log_probs(log_probs, (12, 32), cyclic=False)
    torch.testing.assert_close(plain[..., 2:-2], full[..., 2:-2])
    assert (plain[..., 0] - full[..., 0]).abs().max() > 1e-3


@pytest.mark.parametrize("cyclic", [True, False])
def test_soft_boundary_of_one_hot_is_the_boundary_operator(cyclic: bool) -> None:
    label = random_labels(size=(3, 6, 8))
    expected = label_boundary(label.numpy(), cyclic=cyclic)
    found = losses.soft_boundary(one_hot(label), cyclic=cyclic).numpy()
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_soft_boundary_by_hand() -> None:
    probs = random_probs(size=(1, 3, 4, 5))
    found = losses.soft_boundary(probs)
    for y in range(4):
        for x in range(5):
            right = 0.5 * (probs[0, :, y, x] - probs[0, :, y, (x + 1) % 5]).abs().sum()
            below = 0.5 * (probs[0, :, y, x] - probs[0, :, y + 1, x]).abs().sum() if y < 3 else torch.tensor(0.0)
            torch.testing.assert_close(found[0, y, x], torch.maximum(right, below))


def test_perfect_one_hot_student_attains_the_boundary_minimum() -> None:
    label = random_labels(size=(1, 8, 16), classes=2)
    boundary = torch.from_numpy(label_boundary(label.numpy()))
    minimum = -np.log1p(-1e-3)
    best = losses.boundary_loss(one_hot(label), boundary)
    assert best == pytest.approx(minimum, rel=1e-4)
    for seed in range(10):
        assert losses.boundary_loss(random_probs(seed, (1, 5, 8, 16)), boundary) > best
    assert losses.boundary_loss(one_hot(label).roll(1, -1), boundary) > best
    assert losses.boundary_loss(torch.full((1, 5, 8, 16), 0.2), boundary) > best


def test_boundary_loss_is_cyclic_and_balanced() -> None:
    probs, label = random_probs(size=(1, 5, 6, 16)), random_labels(size=(1, 6, 16), classes=2)
    boundary = torch.from_numpy(label_boundary(label.numpy()))
    loss = losses.boundary_loss(probs, boundary)
    for shift in (1, 5, 15):
        torch.testing.assert_close(losses.boundary_loss(probs.roll(shift, -1), boundary.roll(shift, -1)), loss)
    soft = losses.soft_boundary(probs)
    by_hand = -0.5 * soft[boundary].log().mean() - 0.5 * (1 - soft[~boundary]).log().mean()
    torch.testing.assert_close(loss, by_hand)


def test_boundary_loss_of_a_crop_leaves_out_what_it_cannot_know() -> None:
    """On a crop the result is that of the same pixels in the whole panorama."""
    probs, label = random_probs(size=(1, 5, 12, 24)), random_labels(size=(1, 12, 24), classes=2)
    boundary = torch.from_numpy(label_boundary(label.numpy()))
    crop = (..., slice(2, 9), slice(3, 15))
    known = (..., slice(2, 8), slice(3, 14))
    soft, edge = losses.soft_boundary(probs)[known], boundary[known]
    expected = -0.5 * soft[edge].log().mean() - 0.5 * (1 - soft[~edge]).log().mean()
    found = losses.boundary_loss(probs[crop], boundary[crop], cyclic=False, last_row=False)
    torch.testing.assert_close(found, expected)


def test_boundary_gradient_is_finite_everywhere() -> None:
    boundary = torch.from_numpy(label_boundary(random_labels(size=(1, 6, 8)).numpy()))
    for logits in (torch.zeros(1, 5, 6, 8), 100 * one_hot(random_labels(size=(1, 6, 8)))):
        logits.requires_grad_()
        losses.boundary_loss(logits.softmax(1), boundary).backward()
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits, target = torch.randn(1, 5, 6, 8).to(dtype), random_probs(size=(1, 5, 6, 8))
    assert losses.soft_cross_entropy(logits, target).dtype == torch.float32
    assert losses.hard_cross_entropy(logits, random_labels(size=(1, 6, 8))).dtype == torch.float32
