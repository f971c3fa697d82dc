"""Training nano SAM: it learns, it resumes exactly, its files are safe to load."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from demo.sam.card import model_card, read_history
from demo.sam.data import Pictures
from demo.sam.export import export
from demo.sam.held_out import held_out_points, point_ious
from demo.sam.model import build
from demo.sam.step import Recipe, draw_batch, step_loss, targets
from demo.sam.train import Training, learning_rate, run, start, train_step
from demo.splits import WorldSettings, render_sample
from pipeline.core.errors import UserError
from pipeline.models.weights import load_into, save_checkpoint

RECIPE = Recipe(panoramas=1, pinholes=1, whole=3, pieces=4, dense=8, dense_only=1, balanced_only=0, warm_up=1)


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield None
    torch.set_num_threads(threads)


@cache
def pictures() -> tuple[Pictures, Pictures]:
    """One panorama (a part of it is enough) and one pinhole image."""
    both = []
    for split in ("target-train", "source-train"):
        frame = render_sample(WorldSettings(seed=9), split, 0)
        image, instance = frame.image[None, :, :256], frame.labels.instance[None, :, :256]
        both.append(Pictures(image, instance, cyclic=split == "target-train"))
    return both[0], both[1]


def weights(training: Training) -> list[torch.Tensor]:
    models = (training.sam, training.average, training.tasks)
    return [value for model in models for value in model.state_dict().values()]


def train(training: Training, steps: int) -> None:
    for _ in range(steps):
        train_step(training, *pictures(), RECIPE, "float32")


def test_a_few_steps_on_two_windows_lower_the_loss() -> None:
    training = start(RECIPE)
    windows = draw_batch(*pictures(), RECIPE, np.random.default_rng(0))

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
    undisturbed = start(RECIPE)
    train(undisturbed, 2)
    save_checkpoint(undisturbed.state(), tmp_path / "state.pt")
    train(undisturbed, 2)
    resumed = start(RECIPE)
    resumed.load(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.step == 2
    train(resumed, 2)
    for ours, theirs in zip(weights(resumed), weights(undisturbed), strict=True):
        assert torch.equal(ours, theirs)
    assert not list(tmp_path.glob("*.tmp"))


def test_an_infinite_gradient_changes_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    training = start(RECIPE)
    before = [value.clone() for value in training.sam.parameters()]
    with torch.no_grad():
        training.tasks.dense.bias.fill_(float("nan"))
    train(training, 1)
    for old, new in zip(before, training.sam.parameters(), strict=True):
        assert torch.equal(old, new)
    assert training.step == 1


def test_a_run_leaves_its_curve_state_and_best_weights(tmp_path: Path) -> None:
    panoramas, _ = pictures()
    held_out = held_out_points(panoramas, windows=1, points=4)
    said: list[str] = []
    training = start(RECIPE)
    large = "image_encoder.merge8.1.1.running_var"
    training.sam.state_dict()[large].fill_(1e6)  # more than float16 holds
    run(tmp_path, training, pictures(), held_out, RECIPE, 1 / 3600, 0.5, "float32", said.append)
    (row,) = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert row["step"] == training.step > 0
    assert row["best_of_3"] == point_ious(training.average, held_out, "float32")["best_of_3"]
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == training.step
    size = export(tmp_path / "best.pt", tmp_path / "w.safetensors")
    assert size < 8 * 2**20
    sam = build()
    load_into(sam, tmp_path / "w.safetensors", "nano SAM")
    for name, value in training.average.state_dict().items():
        expected = value.half().float() if value.dtype.is_floating_point and value.ndim > 1 else value
        assert torch.equal(sam.state_dict()[name], expected)
    ours = {"mean_iou": 0.61, "area_weighted_iou": 0.9, "boundary_precision": 0.4, "boundary_recall": 0.9}
    ours |= {"small": 0.5, "large": 0.8, "cpu_seconds": 12.0}
    settings = {"pred_iou_thresh": 0.4, "keep_prompt_component": True}
    figures = {"nano SAM, components": {**ours, "settings": settings}}
    figures["felzenszwalb"] = {**ours, "mean_iou": 0.6, "boundary_precision": 0.5, "settings": {"scale": 100.0}}
    card = model_card(tmp_path / "w.safetensors", read_history(tmp_path), figures, tune=2, test=3, points=8, layers=0)
    text = " ".join(card.split())
    assert f"the weights at step {training.step}, the highest point" in text
    assert "**Runs**: 1. from step 0, 0.000277778 h, the learning rate falling over the last 50%." in text
    assert "pred_iou_thresh: 0.4\nkeep_prompt_component: true" in card
    assert "| nano SAM, components | 0.61 |" in card
    assert f"| {row['step']} |" in card
    assert "above felzenszwalb in mean iou and not above it in area weighted iou, boundary precision" in text
    assert "Masks on 3 windows" in text
    with pytest.raises(UserError, match=r"curve\.jsonl: no such file; expected the folder of a training"):
        read_history(tmp_path / "nowhere")


def test_the_schedule_is_a_function_of_the_step() -> None:
    recipe = Recipe()
    assert learning_rate(recipe, 0, None) == pytest.approx(recipe.learning_rate / recipe.warm_up)
    assert learning_rate(recipe, 500, None) == recipe.learning_rate
    assert learning_rate(recipe, 500, (500, 100)) == recipe.learning_rate
    assert learning_rate(recipe, 600, (500, 100)) == pytest.approx(0.04 * recipe.learning_rate)
    first = recipe.mask_weights(recipe.dense_only)
    assert (first.dice, first.sized) == (0, 0), "the decoder begins with the balanced loss alone"
    last = recipe.mask_weights(recipe.balanced_until)
    assert (last.dice, last.balanced, last.sized) == (1, 0, pytest.approx(0.7))
    assert recipe.spread(recipe.dense_only) == 1
    assert recipe.spread(10**6) == pytest.approx(0.1)


def test_targets_are_shares_of_pixels() -> None:
    segments = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 1]])
    found = targets(segments.expand(2, -1, -1), torch.tensor([0, 1]))
    torch.testing.assert_close(found, torch.tensor([[[0.75, 0.0]], [[0.25, 1.0]]]))
