"""Trains nano SAM: `python -m demo.sam.train --out DIR --hours H`, again with `--resume` to continue.

Training uses one process and one thread. `DIR` receives the rendered images (`data/`), `state.pt` (for resuming),
`best.pt` (averaged weights at the best point of the validation curve), `curve.jsonl` (that curve) and `runs.jsonl`
(first step, hours and annealed share of every run). Files are written atomically; an interrupted run loses at most
the steps since the last save.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from segment_anything.modeling import Sam
from torch import nn

from demo.sam.data import HELD_OUT, PANORAMAS, PINHOLES, LabelledImages, load_sources
from demo.sam.held_out import HeldOut, draw_held_out, measure_point_ious
from demo.sam.losses import DenseTasks
from demo.sam.model import build
from demo.sam.step import Losses, Precision, Recipe, draw_batch, step_loss
from pipeline.models.weights import save_checkpoint

_SAVE_SECONDS = 180.0
_MEASURE_SECONDS = 240.0
_LOG_SECONDS = 30.0
#: Learning rate at the end of an annealing, as a share of the full one.
_LOWEST_RATE = 0.04


@dataclass
class Training:
    """The state of a training.

    Attributes:
        sam: the model.
        tasks: auxiliary tasks.
        average: exponential moving average of `sam`.
        optimizer: of `sam` and `tasks`.
        step: finished steps.
        seconds: wall clock over all runs.
        anneal: first step and number of steps of the current annealing.
        best: highest point of the validation curve.
    """

    sam: Sam
    tasks: DenseTasks
    average: Sam
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    anneal: tuple[int, int] | None = None
    best: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as tensors, numbers, lists and dicts, which load with `weights_only`."""
        modules = {name: getattr(self, name).state_dict() for name in ("sam", "tasks", "average", "optimizer")}
        return {**modules, "step": self.step, "seconds": self.seconds, "anneal": self.anneal, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state that `state_dict` returned."""
        for name in ("sam", "tasks", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        self.anneal = None if state["anneal"] is None else (state["anneal"][0], state["anneal"][1])


def create_training(recipe: Recipe) -> Training:
    """Returns a training at step 0."""
    torch.manual_seed(recipe.seed)
    sam, tasks = build(), DenseTasks()
    sam.image_encoder.to(memory_format=torch.channels_last)
    parameters = [*sam.parameters(), *tasks.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, recipe.learning_rate, betas=(0.9, 0.98))
    return Training(sam, tasks, copy.deepcopy(sam).eval(), optimizer)


def learning_rate(recipe: Recipe, step: int, anneal: tuple[int, int] | None) -> float:
    """Returns the learning rate: warm-up, then constant, then a cosine decay while annealing."""
    rate = recipe.learning_rate * min(1.0, (step + 1) / recipe.warm_up)
    if anneal is not None:
        done = min(1.0, max(0.0, (step - anneal[0]) / max(1, anneal[1])))
        rate *= _LOWEST_RATE + (1 - _LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * done))
    return rate


def train_step(
    training: Training, panoramas: LabelledImages, pinholes: LabelledImages, recipe: Recipe, precision: Precision
) -> Losses:
    """Runs one optimiser step and updates the average; a step with an infinite gradient changes no weight."""
    step = training.step
    for group in training.optimizer.param_groups:
        group["lr"] = learning_rate(recipe, step, training.anneal)
    training.sam.train()
    windows = draw_batch(panoramas, pinholes, recipe, recipe.rng(step))
    loss, log = step_loss(training.sam, training.tasks, windows, recipe, step, precision)
    training.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [*training.sam.parameters(), *training.tasks.parameters()]
    norm = nn.utils.clip_grad_norm_(parameters, 1.0)
    if torch.isfinite(norm):
        training.optimizer.step()
    training.step += 1
    _update_average(training, min(recipe.ema, training.step / (training.step + 10)))
    return log


@torch.no_grad()
def _update_average(training: Training, decay: float) -> None:
    pairs = zip(training.average.state_dict().values(), training.sam.state_dict().values(), strict=True)
    for average, value in pairs:
        if average.dtype.is_floating_point:
            average.lerp_(value, 1 - decay)
        else:
            average.copy_(value)


def run_training(
    out: Path,
    training: Training,
    images: tuple[LabelledImages, LabelledImages],
    held_out: HeldOut,
    recipe: Recipe,
    hours: float,
    anneal_share: float,
    precision: Precision,
    report: Callable[[str], None],
) -> None:
    """Trains for a given time.

    Args:
        out: folder for checkpoints and logs.
        training: the state, which is changed.
        images: panoramas and pinhole images.
        held_out: windows of the validation curve.
        recipe: the training recipe.
        hours: wall clock of this run.
        anneal_share: last share of this run, with a decaying learning rate.
        precision: of the network.
        report: called with each line of the log.
    """
    began = time.monotonic()
    earlier_seconds, first = training.seconds, training.step
    saved = measured = logged = began
    recent: list[tuple[float, ...]] = []
    total = hours * 3600
    with (out / "runs.jsonl").open("a") as file:
        file.write(json.dumps({"step": training.step, "hours": hours, "anneal": anneal_share}) + "\n")

    def measure() -> None:
        training.seconds = earlier_seconds + time.monotonic() - began
        point = measure_point_ious(training.average.eval(), held_out, precision)
        row = {"step": training.step, "minutes": round(training.seconds / 60, 1), **point}
        with (out / "curve.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        report(f"held out: {json.dumps(row)}")
        if point["best_of_3"] >= training.best:
            training.best = point["best_of_3"]
            save_checkpoint({"sam": training.average.state_dict(), **row}, out / "best.pt")
        save_checkpoint(training.state_dict(), out / "state.pt")

    while (elapsed := time.monotonic() - began) < total:
        rate = (training.step - first) / max(elapsed, 1e-9)
        if anneal_share > 0 and training.anneal is None and elapsed >= (1 - anneal_share) * total:
            training.anneal = (training.step, max(1, round(rate * (total - elapsed))))
        log = train_step(training, *images, recipe, precision)
        recent.append(tuple(asdict(log).values()))
        now = time.monotonic()
        if now - logged > _LOG_SECONDS:
            means = dict(zip(asdict(log), np.mean(recent, axis=0).round(3).tolist(), strict=True))
            report(
                f"step {training.step}, {len(recent) / (now - logged):.2f} steps/s, "
                f"{(total - now + began) / 60:.0f} min left: {json.dumps(means)}"
            )
            recent.clear()
            logged = now
        if now - measured > _MEASURE_SECONDS and training.step > recipe.dense_steps:
            measure()
            measured = saved = time.monotonic()
        elif now - saved > _SAVE_SECONDS:
            training.seconds = earlier_seconds + now - began
            save_checkpoint(training.state_dict(), out / "state.pt")
            saved = now
    measure()


def main(
    out: Annotated[Path, typer.Option(help="Folder of the training.")],
    hours: Annotated[float, typer.Option(help="Wall clock of this run, after rendering.")] = 1.0,
    resume: Annotated[bool, typer.Option(help="Continue from OUT/state.pt.")] = False,
    anneal: Annotated[float, typer.Option(help="Last share of the run, with a decaying learning rate.")] = 0.3,
    precision: Annotated[str, typer.Option(help="bfloat16 (fast on CPUs with AVX512-BF16 or AMX) or float32.")] = (
        "bfloat16"
    ),
) -> None:
    """Train nano SAM on rendered windows and keep the weights that are best on held-out ones."""
    if precision not in ("bfloat16", "float32"):
        raise typer.BadParameter(f"--precision: found {precision!r}; expected bfloat16 or float32")
    exact: Precision = "bfloat16" if precision == "bfloat16" else "float32"
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe()
    training = create_training(recipe)
    if resume:
        training.load_state_dict(torch.load(out / "state.pt", weights_only=True))
        training.anneal = None
    elif (out / "state.pt").exists():
        raise typer.BadParameter(f"{out}: found a training; expected --resume, or another folder")
    data = out / "data"
    held_out = draw_held_out(load_sources(data, HELD_OUT, typer.echo), windows=16, points=32)
    images = load_sources(data, PANORAMAS, typer.echo), load_sources(data, PINHOLES, typer.echo)
    count = sum(p.numel() for p in training.sam.parameters())
    typer.echo(f"{count / 1e6:.2f} M parameters, from step {training.step}, {hours:g} h")
    run_training(out, training, images, held_out, recipe, hours, anneal, exact, typer.echo)


if __name__ == "__main__":
    typer.run(main)
