"""Training of nano SAM: the loss falls, resuming is exact, the files load safely."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from demo.sam.card import model_card, read_history
from demo.sam.data import LabelledImages
from demo.sam.export import export_weights
from demo.sam.held_out import draw_held_out, measure_point_ious
from demo.sam.model import build
from demo.sam.step import Recipe, draw_batch, step_loss, target_masks
from demo.sam.train import Training, create_training, learning_rate, run_training, train_step
from demo.splits import WorldSettings, render_sample
from pipeline.core.errors import UserError
from pipeline.models.weights import load_into, save_checkpoint

RECIPE = Recipe(
    panoramas=1,
    pinholes=1,
    window_prompts=3,
    crop_prompts=4,
    dense_points=8,
    dense_steps=1,
    balanced_steps=0,
    warm_up=1,
)


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield None
    torch.set_num_threads(threads)


@cache
def images() -> tuple[LabelledImages, LabelledImages]:
    """Returns a part of one panorama and one pinhole image."""
    both = []
    for split in ("target-train", "source-train"):
        frame = render_sample(WorldSettings(seed=9), split, 0)
        image, instance = frame.image[None, :, :256], frame.labels.instance[None, :, :256]
        both.append(LabelledImages(image, instance, cyclic=split == "target-train"))
    return both[0], both[1]


def weights(training: Training) -> list[torch.Tensor]:
    models = (training.sam, training.average, training.tasks)
    return [value for model in models for value in model.state_dict().values()]


def train(training: Training, steps: int) -> None:
    for _ in range(steps):
        train_step(training, *images(), RECIPE, "float32")


def test_a_few_steps_on_two_windows_lower_the_loss() -> None:
    training = create_training(RECIPE)
    windows = draw_batch(*images(), RECIPE, np.random.default_rng(0))

    def loss() -> float:
        with torch.no_grad():
            return step_loss(training.sam, training.tasks, windows, RECIPE, 4, "float32")[1].total

    before = loss()
    for _ in range(12):
        training.optimizer.zero_grad()
        total, _log = step_loss(training.sam, training.tasks, windows, RECIPE, 4, "float32")
        total.backward()
        training.optimizer.step()
    assert loss() < 0.9 * before


def test_resuming_is_exact(tmp_path: Path) -> None:
    uninterrupted = create_training(RECIPE)
    train(uninterrupted, 2)
    save_checkpoint(uninterrupted.state_dict(), tmp_path / "state.pt")
    train(uninterrupted, 2)
    resumed = create_training(RECIPE)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.step == 2
    train(resumed, 2)
    for actual, expected in zip(weights(resumed), weights(uninterrupted), strict=True):
        assert torch.equal(actual, expected)
    assert not list(tmp_path.glob("*.tmp"))


def test_an_infinite_gradient_changes_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    training = create_training(RECIPE)
    before = [value.clone() for value in training.sam.parameters()]
    with torch.no_grad():
        training.tasks.dense.bias.fill_(float("nan"))
    train(training, 1)
    for old, new in zip(before, training.sam.parameters(), strict=True):
        assert torch.equal(old, new)
    assert training.step == 1


def test_a_run_leaves_its_curve_state_and_best_weights(tmp_path: Path) -> None:
    panoramas, _ = images()
    held_out = draw_held_out(panoramas, windows=1, points=4)
    log: list[str] = []
    training = create_training(RECIPE)
    large = "image_encoder.merge8.1.1.running_var"
    training.sam.state_dict()[large].fill_(1e6)  # more than float16 holds
    run_training(tmp_path, training, images(), held_out, RECIPE, 1 / 3600, 0.5, "float32", log.append)
    (row,) = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert row["step"] == training.step > 0
    assert row["best_of_3"] == measure_point_ious(training.average, held_out, "float32")["best_of_3"]
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == training.step
    size = export_weights(tmp_path / "best.pt", tmp_path / "w.safetensors")
    assert size < 8 * 2**20
    sam = build()
    load_into(sam, tmp_path / "w.safetensors", "nano SAM")
    for name, value in training.average.state_dict().items():
        expected = value.half().float() if value.dtype.is_floating_point and value.ndim > 1 else value
        assert torch.equal(sam.state_dict()[name], expected)
    scores = {"mean_iou": 0.61, "area_weighted_iou": 0.9, "boundary_precision": 0.4, "boundary_recall": 0.9}
    scores |= {"small": 0.5, "large": 0.8, "cpu_seconds": 12.0}
    settings = {"pred_iou_thresh": 0.4, "keep_prompt_component": True}
    figures = {"nano SAM, components": {**scores, "settings": settings}}
    figures["felzenszwalb"] = {**scores, "mean_iou": 0.6, "boundary_precision": 0.5, "settings": {"scale": 100.0}}
    card = model_card(tmp_path / "w.safetensors", read_history(tmp_path), figures, tune=2, test=3, points=8, layers=0)
    text = " ".join(card.split())
    assert f"the weights at step {training.step}, the highest point" in text
    assert "**Runs**: 1. from step 0, 0.000277778 h, the learning rate decaying over the last 50%." in text
    assert "pred_iou_thresh: 0.4\nkeep_prompt_component: true" in card
    assert "| nano SAM, components | 0.61 |" in card
    assert f"| {row['step']} |" in card
    assert "better than felzenszwalb in mean iou and not better in area weighted iou, boundary precision" in text
    assert "Masks on 3 windows" in text
    with pytest.raises(UserError, match=r"curve\.jsonl: no such file; expected the folder of a training"):
        read_history(tmp_path / "nowhere")


def test_the_schedule_is_a_function_of_the_step() -> None:
    recipe = Recipe()
    assert learning_rate(recipe, 0, None) == pytest.approx(recipe.learning_rate / recipe.warm_up)
    assert learning_rate(recipe, 500, None) == recipe.learning_rate
    assert learning_rate(recipe, 500, (500, 100)) == recipe.learning_rate
    assert learning_rate(recipe, 600, (500, 100)) == pytest.approx(0.04 * recipe.learning_rate)
    first = recipe.loss_weights(recipe.dense_steps)
    assert (first.dice, first.scaled) == (0, 0), "the decoder begins with the balanced loss only"
    last = recipe.loss_weights(recipe.balanced_end)
    assert (last.dice, last.balanced, last.scaled) == (1, 0, pytest.approx(0.7))
    assert recipe.loss_weights(recipe.dense_steps).mean_share == 1
    assert recipe.loss_weights(10**6).mean_share == pytest.approx(0.1)


def test_target_masks_are_downsampled() -> None:
    segments = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 1]])
    masks = target_masks(segments.expand(2, -1, -1), torch.tensor([0, 1]))
    torch.testing.assert_close(masks, torch.tensor([[[0.75, 0.0]], [[0.25, 1.0]]]))
