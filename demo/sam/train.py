"""Trains nano SAM: `python -m demo.sam.train --out DIR --hours H`, and again with `--resume` to go on.

One process, one thread. `DIR` receives the rendered pictures (`data/`), `state.pt` (all that resuming needs),
`best.pt` (averaged weights at the best point of the held-out curve), `curve.jsonl` (that curve) and
`runs.jsonl` (first step, hours and annealed share of every run). Files are
replaced whole; an interrupted run loses at most the steps since the last save.
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

from demo.sam.data import HELD_OUT, PANORAMAS, PINHOLES, Pictures, load_sources
from demo.sam.held_out import HeldOut, held_out_points, point_ious
from demo.sam.losses import DenseTasks
from demo.sam.model import build
from demo.sam.step import Losses, Precision, Recipe, draw_batch, step_loss
from pipeline.models.weights import save_checkpoint

_SAVE_SECONDS = 180.0
_MEASURE_SECONDS = 240.0
_LOG_SECONDS = 30.0
_LOWEST_RATE = 0.04
"""Learning rate at the end of an annealing, as a share of the full one."""


@dataclass
class Training:
    """Everything that changes while training, and is saved."""

    sam: Sam
    tasks: DenseTasks
    average: Sam
    """exponential moving average of `sam`"""
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    """spent in training over all runs"""
    anneal: tuple[int, int] | None = None
    """first step and number of steps of the annealing that is under way"""
    best: float = 0.0
    """highest point of the held-out curve"""

    def state(self) -> dict[str, Any]:
        """Tensors, numbers, lists and dicts only: loads with `weights_only`."""
        return {
            "sam": self.sam.state_dict(),
            "tasks": self.tasks.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "anneal": self.anneal,
            "best": self.best,
        }

    def load(self, state: dict[str, Any]) -> None:
        """The counterpart of `state`."""
        self.sam.load_state_dict(state["sam"])
        self.tasks.load_state_dict(state["tasks"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        self.anneal = None if state["anneal"] is None else (state["anneal"][0], state["anneal"][1])


def start(recipe: Recipe) -> Training:
    """A training at step 0."""
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
    """Warm-up, then constant; a cosine down to a few hundredths while annealing."""
    rate = recipe.learning_rate * min(1.0, (step + 1) / recipe.warm_up)
    if anneal is not None:
        done = min(1.0, max(0.0, (step - anneal[0]) / max(1, anneal[1])))
        rate *= _LOWEST_RATE + (1 - _LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * done))
    return rate


def train_step(
    training: Training, panoramas: Pictures, pinholes: Pictures, recipe: Recipe, precision: Precision
) -> Losses:
    """One optimiser step and the update of the average. A step whose gradient is not finite changes no weight."""
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
    _average(training, min(recipe.ema, training.step / (training.step + 10)))
    return log


@torch.no_grad()
def _average(training: Training, decay: float) -> None:
    pairs = zip(training.average.state_dict().values(), training.sam.state_dict().values(), strict=True)
    for average, value in pairs:
        if average.dtype.is_floating_point:
            average.lerp_(value, 1 - decay)
        else:
            average.copy_(value)


def run(
    out: Path,
    training: Training,
    pictures: tuple[Pictures, Pictures],
    held_out: HeldOut,
    recipe: Recipe,
    hours: float,
    anneal_share: float,
    precision: Precision,
    report: Callable[[str], None],
) -> None:
    """Train for `hours` of wall clock, the last `anneal_share` of them with a falling learning rate."""
    began = time.monotonic()
    before, first = training.seconds, training.step
    saved = measured = logged = began
    recent: list[tuple[float, ...]] = []
    total = hours * 3600
    with (out / "runs.jsonl").open("a") as file:
        file.write(json.dumps({"step": training.step, "hours": hours, "anneal": anneal_share}) + "\n")

    def measure() -> None:
        training.seconds = before + time.monotonic() - began
        point = point_ious(training.average.eval(), held_out, precision)
        row = {"step": training.step, "minutes": round(training.seconds / 60, 1), **point}
        with (out / "curve.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        report(f"held out: {json.dumps(row)}")
        if point["best_of_3"] >= training.best:
            training.best = point["best_of_3"]
            save_checkpoint({"sam": training.average.state_dict(), **row}, out / "best.pt")
        save_checkpoint(training.state(), out / "state.pt")

    while (elapsed := time.monotonic() - began) < total:
        rate = (training.step - first) / max(elapsed, 1e-9)
        if anneal_share > 0 and training.anneal is None and elapsed >= (1 - anneal_share) * total:
            training.anneal = (training.step, max(1, round(rate * (total - elapsed))))
        log = train_step(training, *pictures, recipe, precision)
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
        if now - measured > _MEASURE_SECONDS and training.step > recipe.dense_only:
            measure()
            measured = saved = time.monotonic()
        elif now - saved > _SAVE_SECONDS:
            training.seconds = before + now - began
            save_checkpoint(training.state(), out / "state.pt")
            saved = now
    measure()


def main(
    out: Annotated[Path, typer.Option(help="Folder of the training; see the module's help.")],
    hours: Annotated[float, typer.Option(help="How long this run trains, after rendering.")] = 1.0,
    resume: Annotated[bool, typer.Option(help="Go on from OUT/state.pt.")] = False,
    anneal: Annotated[float, typer.Option(help="Last share of the run, with a falling learning rate.")] = 0.3,
    precision: Annotated[str, typer.Option(help="bfloat16 (fast on CPUs with AVX512-BF16 or AMX) or float32.")] = (
        "bfloat16"
    ),
) -> None:
    """Train nano SAM on rendered windows; measure it on held-out ones; keep the best."""
    if precision not in ("bfloat16", "float32"):
        raise typer.BadParameter(f"found {precision!r}, expected bfloat16 or float32")
    exact: Precision = "bfloat16" if precision == "bfloat16" else "float32"
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe()
    training = start(recipe)
    if resume:
        training.load(torch.load(out / "state.pt", weights_only=True))
        training.anneal = None
    elif (out / "state.pt").exists():
        raise typer.BadParameter(f"{out} holds a training already; add --resume to go on, or name another folder")
    data = out / "data"
    held_out = held_out_points(load_sources(data, HELD_OUT, typer.echo), windows=16, points=32)
    pictures = load_sources(data, PANORAMAS, typer.echo), load_sources(data, PINHOLES, typer.echo)
    count = sum(p.numel() for p in training.sam.parameters())
    typer.echo(f"{count / 1e6:.2f} M parameters, from step {training.step}, {hours:g} h")
    run(out, training, pictures, held_out, recipe, hours, anneal, exact, typer.echo)


if __name__ == "__main__":
    typer.run(main)
