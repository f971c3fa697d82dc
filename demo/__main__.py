"""`goodsam demo`: the whole chain on the embedded world, by the commands that a user types.

Everything is written below the working directory: `demo_world`, `cache`, `work_dirs`, `outputs/demo`.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.core.cli import Result, echo, run_command
from pipeline.core.progress import clock, console_progress
from pipeline.core.project_files import find_project_file

if TYPE_CHECKING:
    from demo.splits import Split

WORLD = Path("demo_world")
MANIFEST = WORLD / "manifest.yaml"
OUTPUTS = Path("outputs") / "demo"

#: Panoramas of target-tune: fusion rules and thresholds are chosen on them, never on target-test.
TUNE = 4

#: The TA alone, Semantic-Segment-Anything's vote, the paper's fusion, and ours, which the student learns from.
RULES = ("ta", "ssa", "paper", "best")


def demo(
    panoramas: Annotated[int, typer.Option(min=1, metavar="N", help="Unlabelled panoramas to learn from.")] = 24,
    tests: Annotated[int, typer.Option(min=1, metavar="N", help="Labelled panoramas to evaluate on.")] = 8,
    iterations: Annotated[int, typer.Option(min=1, metavar="N", help="Optimiser steps of the student.")] = 600,
    world_only: Annotated[bool, typer.Option("--world-only", help="Render the world and stop.")] = False,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Processes of the stages.")] = os.cpu_count() or 1,
) -> Result:
    """Runs the whole chain on an embedded street world.

    Renders the world, runs all stages and draws pictures: minutes on a CPU. The second time only what is missing.
    """
    began = time.monotonic()
    render_world({"target-train": panoramas, "target-tune": TUNE, "target-test": tests}, workers)
    if world_only:
        return Result({"stage": "demo", "student": None, "pictures": []})
    run_stage("precompute", "--workers", str(workers))
    for rule in RULES:
        run_stage("fuse", "--fusion", rule)
    checkpoint = json.loads(run_stage("train", "--iterations", str(iterations), "--json"))["checkpoint"]
    compared = [option for rule in RULES for option in ("--fusion", rule)]
    run_stage("evaluate", *compared, "--split", "target-test", "--student", checkpoint)
    pictures = [OUTPUTS / f"target-test-{k}.png" for k in range(min(2, tests))]
    for k, picture in enumerate(pictures):
        run_stage("view", image_id(k), "--student", checkpoint, "--out", str(picture))
    echo(f"done in {clock(time.monotonic() - began)}")
    echo(f"pictures: {', '.join(map(str, pictures))}")
    echo(f"student:  {checkpoint}")
    echo("next: your own panoramas, see the README; `goodsam --help` lists the commands")
    return Result({"stage": "demo", "student": checkpoint, "pictures": [str(picture) for picture in pictures]})


def render_world(counts: dict[Split, int], workers: int) -> None:
    """Renders the missing panoramas of the splits into `WORLD`, and writes its manifest."""
    from demo.splits import WorldSettings
    from demo.world import missing_samples, write_world
    from pipeline.core.atomic_files import write_text

    if missing := len(missing_samples(WORLD, counts)):
        echo(f"$ render {missing} panoramas of the demo world into {WORLD}/")
        with console_progress() as progress:
            progress.start("render", missing)
            write_world(WORLD, WorldSettings(), counts, workers=workers, advance=lambda _: progress.advance())
    manifest = find_project_file("data_manifests", "demo", "demo").read_text(encoding="utf-8")
    write_text(MANIFEST, manifest.replace("root: ../demo_world", "root: ."))


def image_id(index: int) -> str:
    """The id of a panorama of target-test."""
    from demo.world import sample_paths

    return sample_paths(WORLD, "target-test", index).image.relative_to(WORLD).with_suffix("").as_posix()


def run_stage(stage: str, *options: str) -> str:
    """Runs a stage's command on the world, its messages printed.

    Returns:
        Its stdout with `--json`, otherwise an empty text.
    """
    command = [stage, *options, "--manifest", str(MANIFEST), "--config", "demo"]
    echo(f"$ goodsam {shlex.join(command)}")
    sys.stdout.flush()
    # with --json the messages come on stderr; they belong to this program's output
    streams = {"stdout": subprocess.PIPE, "stderr": sys.stdout} if "--json" in options else {}
    done = run_command(*command, **streams)
    if done.returncode:
        raise typer.Exit(done.returncode)
    return done.stdout or ""


if __name__ == "__main__":
    typer.run(demo)
