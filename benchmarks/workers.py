"""Two workers and one on the passes with a model, and the host cores that a GPU's worker needs.

The real command runs on panoramas of the demo world, with nano SAM and the demo's TA, one thread per process; the start
of the cluster counts. One and two workers run in turns, so that other load on the machine affects both.

Workers on GPUs (one each) share no model time and no lock. They share the host: decoding and cutting an image,
compressing and writing it take the CPU seconds measured here. With a model of `s` seconds per panorama, a GPU is busy
if reading and writing take less than `s` each, and all GPUs are if the host has `(reading + writing) / s` cores for
each of them.
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

#: Seconds per panorama on a GPU, in the table of host cores.
GPU_SECONDS = (0.5, 1.0, 2.0, 5.0)


def run(images: int = IMAGES, rounds: int = ROUNDS) -> dict[str, Any]:
    """Returns medians over `rounds` turns."""
    bench = Bench(images=images, tests=1)
    bench.work.mkdir(parents=True, exist_ok=True)
    bench.render()
    manifest = bench.manifest(("target-train",)).path
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers, figures in runs.items():
            figures.append(precompute(manifest, workers))
    rates = {
        kind: {workers: median(run[kind]["images_per_s"] for run in figures) for workers, figures in runs.items()}
        for kind in ("sam", "teacher")
    }
    print_table(
        f"{images} panoramas a second, one thread a process",
        ["pass", "one worker", "two workers", "ratio"],
        [[kind, rate[1], rate[2], rate[2] / rate[1]] for kind, rate in rates.items()],
    )
    host = {kind: sum(median(run[kind]["seconds_each"][step] for run in runs[1]) for step in (0, 2)) for kind in rates}
    print_table(
        "host cores that a GPU's worker needs, by the seconds of a panorama on the GPU",
        ["pass", "reading + writing (s)", *(f"{seconds} s" for seconds in GPU_SECONDS)],
        [[kind, busy, *(busy / seconds for seconds in GPU_SECONDS)] for kind, busy in host.items()],
    )
    return {
        **{f"two_workers_{kind}": round(rate[2] / rate[1], 3) for kind, rate in rates.items()},
        **{f"host_seconds_{kind}": round(seconds, 4) for kind, seconds in host.items()},
        "images": images,
        "cores": len(os.sched_getaffinity(0)),
    }


def precompute(manifest: Path, workers: int) -> dict[str, Any]:
    """Returns the figures of the real command on an empty cache."""
    with tempfile.TemporaryDirectory(prefix="workers-") as cache:
        command = [sys.executable, "-m", "pipeline", "precompute", "--manifest", str(manifest), "--cache", cache]
        command += ["--config", "configs/demo_sam.yaml", "--only", "sam", "--only", "teacher"]
        command += ["--workers", str(workers), "--json"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"precompute failed: {done.stderr}")
    return json.loads(done.stdout)


def main(
    images: Annotated[int, typer.Option(min=2)] = IMAGES,
    rounds: Annotated[int, typer.Option(min=1)] = ROUNDS,
) -> None:
    """Run the benchmark with other numbers of images and rounds."""
    print_json(run(images, rounds))


if __name__ == "__main__":
    typer.run(main)
