"""Inference of a student on the CPU: milliseconds per panorama of 400 x 2048 in torch and onnxruntime, and its size.

Weights are random, because time and size do not depend on them. The runtimes take turns, with one thread each, from
image to labels. CPU time is measured besides wall clock, which depends on the load of the machine. Small:
`python -m benchmarks.deploy --height 64 --width 256 --repeats 2`.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer

from pipeline.core.cli import print_json, print_table
from pipeline.data.labels import load_label_space
from pipeline.models.config_tree import to_json, without_weights
from pipeline.models.load import load_student
from pipeline.models.student import STUDENT_META, Student

STUDENT, SIZE, REPEATS = "goodsam_m", (400, 2048), 5


def run(student: str = STUDENT, size: tuple[int, int] = SIZE, repeats: int = REPEATS) -> dict[str, Any]:
    """Exports an untrained student and times both runtimes; returns medians over `repeats` turns."""
    from stages.export.stage import export_student

    threads, omp_threads = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # OnnxStudent sizes the pool of onnxruntime by it
    try:
        with tempfile.TemporaryDirectory(prefix="deploy-") as folder:
            checkpoint = write_untrained(student, Path(folder) / "student.pth")
            exported = export_student(checkpoint, Path(folder) / "student.onnx", size)
            students = {"torch": load_student(checkpoint, "cpu"), "onnxruntime": load_student(exported.path, "cpu")}
            seconds = time_students(students, size, repeats)
            millions = sum(p.numel() for p in students["torch"].model.parameters()) / 1e6  # type: ignore[attr-defined]
    finally:
        torch.set_num_threads(threads)
        if omp_threads is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = omp_threads
    print_table(
        f"{student}, {size[0]} x {size[1]}, one CPU thread",
        ["runtime", "ms", "CPU ms"],
        [[name, 1e3 * wall, 1e3 * cpu] for name, (wall, cpu) in seconds.items()],
    )
    return {
        "student": student,
        **{f"{name}_ms": round(1e3 * wall, 1) for name, (wall, _) in seconds.items()},
        **{f"{name}_processor_ms": round(1e3 * cpu, 1) for name, (_, cpu) in seconds.items()},
        "speedup": round(seconds["torch"][1] / seconds["onnxruntime"][1], 3),
        "megabytes": round(exported.megabytes, 2),
        "million_parameters": round(millions, 2),
        "max_difference": exported.max_difference,
        "argmax_match": exported.argmax_match,
    }


def write_untrained(student: str, path: Path) -> Path:
    """Writes a checkpoint with random weights in the form of the train stage; returns its path."""
    from pipeline.models.mmseg_import import import_mmseg

    import_mmseg()
    from mmengine.config import ConfigDict
    from mmseg.registry import MODELS

    from stages.train import register  # noqa: F401
    from stages.train.configs import fit_model, read_config, student_config

    space = load_label_space("cityscapes19")
    model = fit_model(read_config(student_config(student)).model.to_dict(), space)
    torch.manual_seed(0)
    described = {
        "model": to_json(without_weights(model)),
        "classes": space.classes,
        "palette": space.palette,
        "ignore_index": space.ignore_index,
    }
    state = MODELS.build(ConfigDict(model)).state_dict()
    torch.save({"state_dict": state, "meta": {STUDENT_META: json.dumps(described)}}, path)
    return path


def time_students(students: dict[str, Student], size: tuple[int, int], repeats: int) -> dict[str, tuple[float, float]]:
    """Returns median wall clock and CPU seconds of each student from image to labels, after a warm-up turn."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in students}
    for _ in range(repeats + 1):
        for name, student in students.items():
            wall, cpu = time.perf_counter(), time.process_time()
            student(image)
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: (median(w for w, _ in values[1:]), median(c for _, c in values[1:])) for name, values in seconds.items()
    }


def main(
    student: Annotated[str, typer.Option(help="goodsam_m, goodsam_t, ... or a config file.")] = STUDENT,
    height: Annotated[int, typer.Option(min=16, help="Pixels.")] = SIZE[0],
    width: Annotated[int, typer.Option(min=16, help="Pixels.")] = SIZE[1],
    repeats: Annotated[int, typer.Option(min=1, help="Timed turns.")] = REPEATS,
) -> None:
    """Run the benchmark with other numbers."""
    print_json(run(student, (height, width), repeats))


if __name__ == "__main__":
    typer.run(main)
