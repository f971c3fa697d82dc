"""Two workers against one on the passes that take a model, and how many workers a machine with GPUs feeds.

The real command on panoramas of the demo world, nano SAM and the demo's TA, each process on one thread; the cluster's
start counts. Times of one worker and of two are taken in turns, so that a busy machine slows both.

On GPUs (one worker each) nothing of the model's time is shared, and no worker waits for another: images are
independent, and there are no locks. What workers do share is the host: decoding and cutting an image, compressing and
writing it, which take the CPU seconds measured here. So for a model of `s` seconds a panorama, a GPU stays busy as
long as reading and writing take less than `s` each, and all GPUs do as long as the host has
`(reading + writing) / s` cores for each of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from benchmarks.student import Bench
from pipeline.core.cli import print_json, print_table

ROOT = Path(__file__).parent.parent
IMAGES, ROUNDS = 12, 2

#: Seconds a panorama keeps a GPU busy, of the table of host cores.
GPU_SECONDS = (0.5, 1.0, 2.0, 5.0)


def run(images: int = IMAGES, rounds: int = ROUNDS) -> dict[str, Any]:
    """Medians over `rounds` turns."""
    bench = Bench(images=images, tests=1)
    bench.work.mkdir(parents=True, exist_ok=True)
    bench.render()
    manifest = bench.manifest(("target-train",)).path
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers, own in runs.items():
            own.append(precompute(manifest, workers))
    rates = {
        kind: {workers: median(figures[kind]["images_per_s"] for figures in own) for workers, own in runs.items()}
        for kind in ("sam", "teacher")
    }
    print_table(
        f"{images} panoramas a second, one thread a process",
        ["pass", "one worker", "two workers", "ratio"],
        [[kind, rate[1], rate[2], rate[2] / rate[1]] for kind, rate in rates.items()],
    )
    host = {
        kind: sum(median(figures[kind]["seconds_each"][step] for figures in runs[1]) for step in (0, 2))
        for kind in rates
    }
    print_table(
        "host cores that a GPU's worker needs, by what a panorama takes on the GPU",
        ["pass", "reading + writing (s)", *(f"{seconds} s" for seconds in GPU_SECONDS)],
        [[kind, own, *(own / seconds for seconds in GPU_SECONDS)] for kind, own in host.items()],
    )
    return {
        **{f"two_workers_{kind}": round(rate[2] / rate[1], 3) for kind, rate in rates.items()},
        **{f"host_seconds_{kind}": round(seconds, 4) for kind, seconds in host.items()},
        "images": images,
        "cores": len(os.sched_getaffinity(0)),
    }


def precompute(manifest: Path, workers: int) -> dict[str, Any]:
    """The line of JSON of the real command into an empty cache."""
    with tempfile.TemporaryDirectory(prefix="workers-") as cache:
        command = [sys.executable, "-m", "pipeline", "precompute", "--manifest", str(manifest), "--cache", cache]
        command += ["--config", "configs/demo_sam.yaml", "--only", "sam", "--only", "teacher"]
        command += ["--workers", str(workers)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"precompute failed: {done.stderr}")
    return json.loads(done.stdout.strip().rpartition("\n")[2])


def main(
    images: Annotated[int, typer.Option(min=2)] = IMAGES,
    rounds: Annotated[int, typer.Option(min=1)] = ROUNDS,
) -> None:
    """The benchmark with other numbers than its own."""
    print_json(run(images, rounds))


if __name__ == "__main__":
    typer.run(main)
