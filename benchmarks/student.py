"""Compares sources of labels: the same student, steps and seeds on each of them, scored on target-test.

The data is the demo world at half size (200 x 1024), the settings are those of `configs/demo.yaml`. Baselines train by
cross-entropy on their labels (pixels without a label are ignored); rows `best ...` switch terms of MKA. The initial
weights of `goodsam_demo` are those of a model of its size that was trained on photos. The two end rows of `goodsam_m`
(any row with `--student`) start from random weights, with the same crops and schedule.

Finished rows are kept in `benchmarks/student_rows.json`, a file of the project, under a hash of everything that
determines them: a stopped run continues with the next row, on another machine too. `--rows` names another file and
measures anew. Small: `python -m benchmarks.student --images 4 --tests 2 --iterations 20 --seeds 1
--rows /tmp/rows.json`. A student with the size and the initial weights of the TA: `--student
mmseg_configs/teachers/demo_resnet_fpn.py --start demo/weights/ta_resnet_fpn.safetensors`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.rows import Rows
from benchmarks.training import CONFIG, IMAGES, STUDENT, TERMS, TESTS, WORK, Bench, Row
from pipeline.core.cli import echo, print_json, print_table
from pipeline.core.hashing import file_digest
from pipeline.core.settings import short_hash
from pipeline.data.images import ImagePreprocessing, read_image
from pipeline.data.samples import LabelReader
from pipeline.geometry.circular_convolution import make_circular
from pipeline.models.student import Student
from pipeline.models.torch_student import load_torch_student
from stages.fuse.settings import RULES as FUSION_RULES

ROWS = Path(__file__).parent / "student_rows.json"
ITERATIONS, SEEDS, PHOTOS = 1000, 3, 1500

#: A larger student, for the rows at both ends of the table, with one seed.
LARGER, ENDS = "goodsam_m", ("source only", "ground truth")

#: The scores of a row, see `measure`.
MEASURES = ("miou", "things", "boundary_f", "seam", "seam_cyclic")

#: Increased when code changes the result of a training with the same settings; rows of another version do not count.
VERSION = 1

#: The rule of the full method: the first that exists.
METHOD = ("best", "paper")


def rows(rule: str) -> list[Row]:
    """Returns every row; `rule` is the rule of the full method."""
    return [
        Row("student source only", "photos"),
        Row("student ta labels", "ta"),
        Row("student ssa", "ssa"),
        Row("student sepl", "sepl"),
        *(Row(f"student {rule} {term} alone", rule, (term,)) for term in TERMS[:3]),
        *(Row(f"student mka without {term}", rule, tuple(t for t in TERMS if t != term)) for term in TERMS),
        Row("student paper mka", "paper", TERMS),
        Row("student mka", rule, TERMS),
        Row("student mka, TA adapted once", rule, TERMS, adapted=True),
        Row("student ground truth", "truth"),
    ]


def run(
    images: int = IMAGES,
    tests: int = TESTS,
    iterations: int = ITERATIONS,
    seeds: int = SEEDS,
    photos: int = PHOTOS,
    adapt_iterations: int = 300,
    only: tuple[str, ...] = (),
    work: Path = WORK,
    student: str = STUDENT,
    stored: Path = ROWS,
    start: Path | None = None,
) -> dict[str, Any]:
    """Trains and scores the missing rows.

    Args:
        images: unlabelled panoramas to train on.
        tests: labelled panoramas to score on.
        iterations: optimiser steps of every row.
        seeds: trainings of every row.
        photos: labelled photos of the source-only row.
        adapt_iterations: steps of the adaptation round.
        only: regular expressions for the names of rows; all if empty.
        work: folder of world, cache and trainings.
        student: a config in mmseg_configs/students.
        stored: file of the finished rows.
        start: initial weights; None for those of the demo or, for another student, random ones.

    Returns:
        Means over the seeds; mIoU in percent.
    """
    work.mkdir(parents=True, exist_ok=True)
    bench = Bench(images, tests, photos, work, student, start)
    kinds = FUSION_RULES.known_kinds()
    rule = next(kind for kind in METHOD if kind in kinds)
    store = Rows(stored)
    figures: dict[str, Any] = {"student": student, "rule": rule, "iterations": iterations, "seeds": seeds}
    figures |= {"images": images, "tests": tests}
    echo(f"{stored} holds {len(store.done())} measurements, which are not repeated; another --rows file repeats them")
    ta_itself = store.get({"row": "ta_itself", **_cache_keys(bench, rule)}, lambda: _ta_itself(bench, rule))
    figures["ta_itself"] = round(ta_itself["miou"], 2)
    table: list[list[Any]] = [
        ["TA itself", ta_itself["miou"], "-", ta_itself["things"], ta_itself["boundary_f"], "-", "-"]
    ]
    if (initial := bench.config(rule).train.load_from) is not None:
        described = {"row": "start", "start": file_digest(initial), "tests": bench.tests}
        scores = store.get(described, lambda: measure(bench, initial))
        figures["student_start"] = round(scores["miou"], 2)
        table.append(["initial weights, untrained", scores["miou"], "-", *(scores[name] for name in MEASURES[1:])])
    for row in rows(rule):
        if only and not any(re.search(pattern, row.name) for pattern in only):
            continue
        if row.labels not in (*kinds, "photos", "truth"):
            echo(f"{row.name}: skipped, there is no fusion rule {row.labels!r} yet")
            continue
        scored = [_score(bench, row, store, iterations, seed, adapt_iterations) for seed in range(seeds)]
        mean = {name: float(np.mean([score[name] for score in scored])) for name in MEASURES}
        spread = float(np.std([score["miou"] for score in scored]))
        figures |= {row.key(): round(mean["miou"], 2), f"{row.key()}_spread": round(spread, 2)}
        figures |= {f"{row.key()}_{name}": round(mean[name], 2) for name in MEASURES[1:]}
        table.append([row.name, mean["miou"], spread, *(mean[name] for name in MEASURES[1:])])
        echo(f"{row.name}: {mean['miou']:.2f}")
    title = (
        f"{student}: {iterations} steps, scored on {tests} panoramas; percent, ± standard deviation over {seeds} seeds"
    )
    print_table(title, ["learns from", "mIoU", "±", "things", "F 2 px", "seam", "seam, cyclic padding"], table)
    if student == STUDENT and start is None and not only:
        ends = run(images, tests, iterations, 1, photos, adapt_iterations, ENDS, work, LARGER, stored)
        figures |= {f"{LARGER}_{key}": value for key, value in ends.items() if key.startswith("student_")}
    return figures


def _cache_keys(bench: Bench, rule: str) -> dict[str, Any]:
    return {"fused": bench.config(rule).artefacts(ImagePreprocessing()).key("fused"), "tests": bench.tests}


def half_turn_agreement(student: Student, image: np.ndarray) -> tuple[float, float]:
    """Compares the predictions for a panorama and for the panorama turned by 180 degrees.

    Returns:
        The percentage of equal pixels: of all, and of those within 1/64 of the width from the seam of either input.
    """
    width = image.shape[1]
    half, band = width // 2, max(1, width // 64)
    same = student(image) == np.roll(student(np.roll(image, half, axis=1)), -half, axis=1)
    near_seam = np.zeros(width, dtype=bool)
    for seam in (0, half):
        near_seam[np.arange(seam - band, seam + band) % width] = True
    return 100 * float(same.mean()), 100 * float(same[:, near_seam].mean())


def _ta_itself(bench: Bench, rule: str) -> dict[str, float]:
    from stages.evaluate.stage import evaluate

    bench.fuse(rule)
    scores, _ = evaluate(bench.manifest(), [bench.config(rule)], splits=["target-test"])
    return {"miou": scores[0].miou, "things": scores[0].things, "boundary_f": scores[0].boundary_f[2]}


def _score(bench: Bench, row: Row, store: Rows, iterations: int, seed: int, adapt_iterations: int) -> dict[str, Any]:
    from stages.train.stage import training_key

    described = {
        "version": VERSION,
        "row": row.name,
        "terms": bench.term_weights(row),
        "images": bench.photos if row.labels == "photos" else bench.images,
        "iterations": iterations,
        "seed": seed,
        "train": {k: v for k, v in training_key(bench.config("paper")).items() if k not in ("iterations", "split")},
        "adapt": adapt_iterations if row.adapted else None,
        "tests": bench.tests,
    }
    if row.labels not in ("photos", "truth"):
        described |= _cache_keys(bench, row.labels)
    return store.get(described, lambda: _train_and_score(bench, row, described))


def _train_and_score(bench: Bench, row: Row, described: dict[str, Any]) -> dict[str, float]:
    from stages.train.stage import train_student

    bench.render()
    overrides: dict[str, Any] = {f"model.mka.{term}": weight for term, weight in bench.term_weights(row).items()}
    if bench.student != STUDENT:
        overrides |= short_schedule()
    if row.labels in ("photos", "truth"):
        split = "source-train" if row.labels == "photos" else "target-train"
        manifest, config = bench.manifest((split,), truth=True), bench.config("paper")
        reader = LabelReader(manifest)
        if row.labels == "photos":
            overrides |= _photo_pipeline()
    else:
        bench.fuse(row.labels)
        settings = bench.adapted(row.labels, described["adapt"]) if row.adapted else CONFIG
        manifest, config = bench.manifest(), bench.config(row.labels, "train.split=target-train", base=settings)
        reader = None
    changes = {"iterations": described["iterations"], "seed": described["seed"], "overrides": overrides, "workers": 0}
    train = config.train.model_copy(update=changes)
    folder = bench.work / "runs" / f"{row.key()}-{short_hash(described)}"
    checkpoint = train_student(manifest, config.model_copy(update={"train": train}), folder, reader=reader)
    return measure(bench, checkpoint)


def measure(bench: Bench, checkpoint: Path) -> dict[str, float]:
    """Returns scores on target-test, and the agreement with itself under a half-turn.

    The agreement is also measured with circular padding in inference. The training is the same: it uses crops, which
    are never padded circularly.
    """
    from stages.evaluate.stage import evaluate

    bench.render()
    config, manifest = bench.config("paper"), bench.manifest()
    (scores,), _ = evaluate(manifest, [config], splits=["target-test"], students=[checkpoint], pseudo_labels=False)
    figures = {"miou": scores.miou, "things": scores.things, "boundary_f": scores.boundary_f[2]}
    student = load_torch_student(checkpoint, "cpu")
    images = [read_image(record.path, manifest.preprocessing) for record in manifest.select(("target-test",))]
    for name in ("", "_cyclic"):
        if name:
            make_circular(student.model)
        everywhere, seam = np.mean([half_turn_agreement(student, image) for image in images], axis=0)
        figures |= {f"self_agreement{name}": float(everywhere), f"seam{name}": float(seam)}
    return figures


def short_schedule() -> dict[str, Any]:
    """Returns overrides with the crops and the schedule of the demo student; others need GPUs and days."""
    from stages.train.configs import read_config, student_config

    config = read_config(student_config(STUDENT))
    keys = ("train_cfg", "train_pipeline", "param_scheduler", "custom_hooks")
    return {**{key: config[key] for key in keys}, "optim_wrapper": {**config.optim_wrapper, "_delete_": True}}


def _photo_pipeline() -> dict[str, Any]:
    """Returns the override for photos: crops that do not cross the seam, as for the student's initial weights."""
    from demo.teachers import augment  # noqa: F401 (registers PhotoCrop)
    from demo.teachers.recipes import find_recipe

    return {"train_pipeline": find_recipe("goodsam_demo").overrides()["train_pipeline"]}


def main(
    images: Annotated[int, typer.Option(min=1, help="Unlabelled panoramas to train on.")] = IMAGES,
    tests: Annotated[int, typer.Option(min=1, help="Labelled panoramas to score on.")] = TESTS,
    iterations: Annotated[int, typer.Option(min=1, help="Optimiser steps of every row.")] = ITERATIONS,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of every row.")] = SEEDS,
    photos: Annotated[int, typer.Option(min=1, help="Labelled photos of the source-only row.")] = PHOTOS,
    adapt_iterations: Annotated[int, typer.Option(min=1, help="Steps of the adaptation round.")] = 300,
    only: Annotated[list[str] | None, typer.Option(help="Regular expression for names of rows. Repeatable.")] = None,
    work: Annotated[Path, typer.Option(help="Folder of world, cache and trainings.")] = WORK,
    student: Annotated[str, typer.Option(help="A config of mmseg_configs/students.")] = STUDENT,
    stored: Annotated[Path, typer.Option("--rows", help="File of the finished rows.")] = ROWS,
    start: Annotated[Path | None, typer.Option(help="Initial weights of the student.")] = None,
) -> None:
    """Runs the benchmark with other numbers."""
    print_json(
        run(images, tests, iterations, seeds, photos, adapt_iterations, tuple(only or ()), work, student, stored, start)
    )


if __name__ == "__main__":
    typer.run(main)
