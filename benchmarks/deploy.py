"""A student in use on the CPU: milliseconds a panorama of 400 x 2048, by torch and by onnxruntime, and its size.

Weights are random: time and size do not depend on them. One thread each, measured in turns, image to labels; the
processor's time besides the clock's, which on a busy machine says more about the machine. Small:
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
from pipeline.models.student import STUDENT_META, Student, load_student, to_json, without_weights

STUDENT, SIZE, REPEATS = "goodsam_m", (400, 2048), 5


def run(student: str = STUDENT, size: tuple[int, int] = SIZE, repeats: int = REPEATS) -> dict[str, Any]:
    """Exports an untrained student of that size and times both; medians over `repeats` turns."""
    from stages.export.stage import export_student

    threads, limit = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # onnxruntime's pool follows it, see OnnxStudent
    try:
        with tempfile.TemporaryDirectory(prefix="deploy-") as folder:
            checkpoint = untrained(student, Path(folder) / "student.pth")
            exported = export_student(checkpoint, Path(folder) / "student.onnx", size)
            students = {"torch": load_student(checkpoint, "cpu"), "onnxruntime": load_student(exported.path, "cpu")}
            seconds = time_in_turns(students, size, repeats)
            millions = sum(p.numel() for p in students["torch"].model.parameters()) / 1e6  # type: ignore[attr-defined]
    finally:
        torch.set_num_threads(threads)
        if limit is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = limit
    print_table(
        f"{student}, {size[0]} x {size[1]}, one CPU thread",
        ["runtime", "ms", "ms of the processor"],
        [[name, 1e3 * wall, 1e3 * processor] for name, (wall, processor) in seconds.items()],
    )
    return {
        "student": student,
        **{f"{name}_ms": round(1e3 * wall, 1) for name, (wall, _) in seconds.items()},
        **{f"{name}_processor_ms": round(1e3 * processor, 1) for name, (_, processor) in seconds.items()},
        "speedup": round(seconds["torch"][1] / seconds["onnxruntime"][1], 3),
        "megabytes": round(exported.megabytes, 2),
        "million_parameters": round(millions, 2),
        "max_difference": exported.max_difference,
        "argmax_match": exported.argmax_match,
    }


def untrained(student: str, path: Path) -> Path:
    """A checkpoint of a student with random weights, as the train stage writes it."""
    from pipeline.models.mmseg_import import import_mmseg

    import_mmseg()
    from mmseg.registry import MODELS

    from stages.train import register  # noqa: F401
    from stages.train.configs import fit_model, read_config, student_config

    space = load_label_space("cityscapes19")
    config = read_config(student_config(student)).model
    fit_model(config, space.num_classes, space.ignore_index, sync_bn=False)
    torch.manual_seed(0)
    described = {
        "model": to_json(without_weights(config.to_dict())),
        "classes": space.classes,
        "palette": space.palette,
        "ignore_index": space.ignore_index,
    }
    state = MODELS.build(config).state_dict()
    torch.save({"state_dict": state, "meta": {STUDENT_META: json.dumps(described)}}, path)
    return path


def time_in_turns(students: dict[str, Student], size: tuple[int, int], repeats: int) -> dict[str, tuple[float, float]]:
    """The median seconds of each student from image to labels, by the clock and of the processor.

    Every turn runs all students, after one that is not counted.
    """
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in students}
    for _ in range(repeats + 1):
        for name, student in students.items():
            wall, processor = time.perf_counter(), time.process_time()
            student(image)
            seconds[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {
        name: (median(w for w, _ in values[1:]), median(p for _, p in values[1:])) for name, values in seconds.items()
    }


def main(
    student: Annotated[str, typer.Option(help="goodsam_m, goodsam_t, ... or a config.")] = STUDENT,
    height: Annotated[int, typer.Option(min=16)] = SIZE[0],
    width: Annotated[int, typer.Option(min=16)] = SIZE[1],
    repeats: Annotated[int, typer.Option(min=1)] = REPEATS,
) -> None:
    """The benchmark with other numbers than its own."""
    print_json(run(student, (height, width), repeats))


if __name__ == "__main__":
    typer.run(main)
