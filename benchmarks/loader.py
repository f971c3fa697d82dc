"""Measures the benefit of the cache in training: the loader alone, the step with it, the step with SAM and TA inside.

The data is the demo world at half size (200 x 1024); student and settings are those of `configs/demo.yaml`, on one
thread. A step is timed on tensors in memory and on batches of two loaders, in turns, so that other load on the machine
slows all of them: one keeps decoded panoramas within `train.memory` (all fit), the other reads every sample from the
cache, in a thread and one batch ahead, as a training without loader processes does. The online alternative is not
built: its step is the offline step plus, for each panorama of the batch, the time of stages one and two for it in
this run, with loaded models. Small: `python -m benchmarks.loader --images 4 --steps 4`.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from statistics import mean, median
from typing import Annotated, Any

import torch
import typer
import yaml

from benchmarks.training import CONFIG, Bench
from pipeline.cache.fused_reader import CacheReader
from pipeline.cache.incremental import CacheTask
from pipeline.core.cli import echo, print_json, print_table
from stages.fuse.tasks import FuseTask
from stages.precompute.tasks import MasksTask, SamTask, TeacherTask

IMAGES, STEPS, BATCH = 8, 72, 4

#: Batches in memory, used in turns.
KEPT_BATCHES = 12


def run(images: int = IMAGES, steps: int = STEPS, batch: int = BATCH) -> dict[str, Any]:
    """Times loader, steps and the first two stages; returns means over `steps` turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(images, steps, batch)
    finally:
        torch.set_num_threads(threads)


def _measure(images: int, steps: int, batch: int) -> dict[str, Any]:
    bench = Bench(images=images, tests=1)
    bench.render()
    stages = _stage_seconds(bench)
    loaders, step = _training(bench, batch)
    batches: dict[str, Iterator[Any]] = {name: iter(loader) for name, loader in loaders.items()}  # without end
    memory = list(islice(batches["kept"], max(KEPT_BATCHES, -(-images // batch))))  # every panorama was read once
    batches["tensors"] = cycle(memory)
    for data in memory[:2]:
        step(data)  # the first steps allocate
    timed: dict[str, list[float]] = {name: [] for name in batches}
    for turn in range(steps):
        names = list(batches)
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            began = time.perf_counter()
            step(next(batches[name]))
            timed[name].append(time.perf_counter() - began)
    per_sample = {name: mean(values) / batch for name, values in timed.items()}
    began = time.perf_counter()
    loaded = len(list(islice(batches["cache"], steps)))
    per_sample["loader"] = (time.perf_counter() - began) / (loaded * batch)
    stage_one, stage_two = stages["sam"] + stages["masks"] + stages["teacher"], stages["fused"]
    online = per_sample["tensors"] + stage_one + stage_two
    # both stages once and E offline epochs cost as much as E online epochs
    epochs = (stage_one + stage_two) / max(online - per_sample["cache"], 1e-9)
    print_table(
        "loader: milliseconds a panorama",
        ["what", "ms", "panoramas/s"],
        [
            [name, 1e3 * value, 1 / value]
            for name, value in {
                "loader alone, from the cache (augmented, packed)": per_sample["loader"],
                "training step on tensors in memory": per_sample["tensors"],
                "training step, panoramas kept after the first epoch": per_sample["kept"],
                "training step, read from the cache every time": per_sample["cache"],
                **{f"stage one: {kind}" if kind != "fused" else "stage two": s for kind, s in stages.items()},
                "training step with both stages inside (sum)": online,
            }.items()
        ],
    )
    ratio = online / per_sample["cache"]
    echo(f"online costs {ratio:.1f} times as much; both stages have paid for themselves after {epochs:.2f} epochs")
    return {
        "samples_per_s": round(1 / per_sample["loader"], 2),
        "relative_speed": round(per_sample["tensors"] / per_sample["kept"], 4),
        "relative_speed_every_time_from_cache": round(per_sample["tensors"] / per_sample["cache"], 4),
        "online_ratio": round(ratio, 2),
        "break_even_epochs": round(epochs, 3),
        "images": images,
        "batch": batch,
        "generator": yaml.safe_load(CONFIG.read_text())["sam"]["generator"]["kind"],
    }


def _stage_seconds(bench: Bench) -> dict[str, float]:
    """Returns the seconds per panorama of every pass of the first two stages, with loaded models and a new cache."""
    import tempfile

    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="loader-") as folder:
        config = bench.config("paper", cache=folder)
        manifest = bench.manifest()
        records = manifest.select(("target-train",))
        settings = (config, manifest.preprocessing, manifest.name)
        tasks: list[CacheTask] = [SamTask(*settings), MasksTask(*settings), TeacherTask(*settings), FuseTask(*settings)]
        for task in tasks:
            task.create_artefact()
            work = task.setup()
            durations = []
            for record in records:
                began = time.perf_counter()
                steps = work(record)
                if inspect.isgenerator(steps):  # reading, computing and writing, here one after the other
                    for _ in steps:
                        pass
                durations.append(time.perf_counter() - began)
            seconds[task.spec.kind] = median(durations)
    return seconds


def _training(bench: Bench, batch: int) -> tuple[dict[str, Any], Callable[[Any], Any]]:
    """Returns the loaders of a training without loader processes (`kept` and `cache`), and its step."""
    from mmengine.optim import OptimWrapper

    from pipeline.models.mmseg_import import import_mmseg

    import_mmseg()
    from mmseg.registry import MODELS

    from stages.train import register  # noqa: F401
    from stages.train.configs import read_config, student_config
    from stages.train.launch import build_loader
    from stages.train.run import TrainingRun

    bench.fuse("paper")
    config = bench.config("paper")
    student = read_config(student_config(config.train.student))
    loaders = {}
    for name, memory in {"kept": config.train.memory, "cache": 0}.items():
        train = config.train.model_copy(update={"memory": memory, "batch_size": batch, "workers": 0})
        reader = CacheReader(bench.manifest(), config, ("target-train",)).reader
        run = TrainingRun(train, config.fused_space(), reader, bench.work / "loader", device="cpu")
        loaders[name] = build_loader(run, student.train_pipeline)
    torch.manual_seed(0)
    model = MODELS.build(student.model).train()
    if any(hook.type == "ChannelsLastHook" for hook in student.get("custom_hooks", [])):
        model.to(memory_format=torch.channels_last)
    optimizer = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=1e-4))
    return loaders, lambda data: model.train_step(data, optimizer)


def main(
    images: Annotated[int, typer.Option(min=1)] = IMAGES,
    steps: Annotated[int, typer.Option(min=2)] = STEPS,
    batch: Annotated[int, typer.Option(min=1)] = BATCH,
) -> None:
    """Runs the benchmark with other numbers."""
    print_json(run(images, steps, batch))


if __name__ == "__main__":
    typer.run(main)
