"""`make demo`: the whole chain on the embedded world, by the very commands that a user types."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from demo.splits import Split, WorldSettings
from demo.world import missing_samples, sample_paths, write_world
from pipeline.core.progress import clock, console_progress

ROOT = Path(__file__).resolve().parents[1]
WORLD = ROOT / "demo_world"
OUTPUTS = ROOT / "outputs" / "demo"

#: Panoramas of target-tune: fusion rules and thresholds are chosen on them, never on target-test.
TUNE = 4

#: The TA alone, Semantic-Segment-Anything's vote, the paper's fusion, and ours, which the student learns from.
RULES = ("ta", "ssa", "paper", "best")


def demo(
    panoramas: Annotated[int, typer.Option(min=1, help="Unlabelled panoramas to learn from.")] = 24,
    tests: Annotated[int, typer.Option(min=1, help="Labelled panoramas to evaluate on.")] = 8,
    iterations: Annotated[int, typer.Option(min=1, help="Optimiser steps of the student.")] = 600,
    world_only: Annotated[bool, typer.Option("--world-only", help="Render the world and stop.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes of the stages.")] = os.cpu_count() or 1,
) -> None:
    """World, precompute, fuse, train, evaluate, pictures: minutes on a CPU; a second time only what is missing."""
    began = time.monotonic()
    render_world({"target-train": panoramas, "target-tune": TUNE, "target-test": tests}, workers)
    if world_only:
        return
    run("precompute", "--workers", str(workers))
    for rule in RULES:
        run("fuse", "--fusion", rule)
    trained = run("train", "--iterations", str(iterations))
    checkpoint = trained["checkpoint"]
    compared = [option for rule in RULES for option in ("--fusion", rule)]
    run("evaluate", *compared, "--split", "target-test", "--student", checkpoint)
    pictures = []
    for k in range(min(2, tests)):
        image = sample_paths(WORLD, "target-test", k).image.relative_to(WORLD).with_suffix("").as_posix()
        pictures.append(OUTPUTS / f"target-test-{k}.png")
        out = pictures[-1].relative_to(ROOT).as_posix()
        run("view", image, "--student", checkpoint, "--out", out, measured=False)
    echo(f"done in {clock(time.monotonic() - began)}")
    echo(f"pictures: {', '.join(str(p.relative_to(ROOT)) for p in pictures)}")
    echo(f"student:  {checkpoint}")
    echo("next: your own panoramas, see the README; `make help` lists the stages")


def render_world(counts: dict[Split, int], workers: int) -> None:
    """Renders what is missing of the splits into `WORLD`; rendered once, kept."""
    missing = len(missing_samples(WORLD, counts))
    if not missing:
        return
    echo(f"$ render {missing} panoramas of the demo world into {WORLD.relative_to(ROOT)}/")
    with console_progress() as progress:
        progress.start("render", missing)
        write_world(WORLD, WorldSettings(), counts, workers=workers, advance=lambda _: progress.advance())


def run(stage: str, *options: str, measured: bool = True) -> dict[str, Any]:
    """One stage by its command line, its output shown; the figures of its last line."""
    # the manifest and settings of the demo are the default of every stage
    command = ["python", "-m", "pipeline", stage, *options]
    echo(f"$ {shlex.join(command)}")
    last = ""
    with subprocess.Popen(
        [sys.executable, *command[1:]], cwd=ROOT, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith("{"):
                print(line, end="", flush=True)
            last = line if line.strip() else last
    if process.returncode:
        raise typer.Exit(process.returncode)
    return json.loads(last) if measured else {}


def echo(text: str) -> None:
    """Prints for the user, at once."""
    typer.echo(text)


if __name__ == "__main__":
    typer.run(demo)
