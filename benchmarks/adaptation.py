"""Adaptation of the TA to a large and to a small domain gap, and the students that learn from it.

The data are worlds at half size, by `demo.world`, with the settings of `configs/demo.yaml`: 48 panoramas without labels
and 16 with labels, three seeds of the world. Every row is measured on the labelled ones.

Finished rows are kept in `benchmarks/adaptation_rows.json`, a file of the project: a stopped run continues with the
next row. Small: `python -m benchmarks.adaptation --images 4 --tests 2 --iterations 5 --steps 10 --seeds 1 --rounds 1
--rows /tmp/rows.json --work /tmp/adaptation`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml
from scipy.stats import spearmanr

from benchmarks import window_edges
from benchmarks.rows import Rows
from benchmarks.window_edges import CHECKPOINT
from demo.domain import Shift
from demo.splits import WorldSettings
from demo.world import write_world
from pipeline.cache.fused_reader import stitched_probabilities
from pipeline.core.cli import echo, print_json, print_table
from pipeline.core.progress import console_progress
from pipeline.data.images import ImagePreprocessing, read_labels
from pipeline.data.manifests import Manifest, load_manifest
from pipeline.data.samples import LabelReader
from stages.adapt.stage import Round
from stages.config import Config, load_config
from stages.evaluate.measures import risk_area, weight_counts

ROOT = Path(__file__).parent.parent
ROWS = Path(__file__).parent / "adaptation_rows.json"
WORK = ROOT / "work_dirs" / "bench_adaptation"
CONFIG = ROOT / "configs" / "demo.yaml"
IMAGES, TESTS, SEEDS, ROUNDS, ITERATIONS, STEPS = 48, 16, 3, 5, 300, 1000
LARGE = 4  #: Steps of a student as large as the TA, in multiples of the small student's.
FIRST_SEED = 7

#: Increased when code changes a row with the same settings; rows of another version do not count.
VERSION = 1

#: The rules whose order the expected mIoU is tested on.
RULES = ("best", "paper", "ssa", "sepl", "sgml", "goodsampp")
TEACHERS = ("resnet_fpn", "segformer")


@dataclass(frozen=True)
class World:
    """A world with its cache."""

    shift: Shift
    seed: int
    images: int
    tests: int
    work: Path

    @property
    def folder(self) -> Path:
        return self.work / f"{self.shift}-{self.seed}-{self.images}-{self.tests}"

    @cached_property
    def manifest(self) -> Manifest:
        """Renders what is missing; the labels of target-train stay unused."""
        counts: dict[Any, int] = {"target-train": self.images, "target-test": self.tests}
        write_world(self.folder, WorldSettings(seed=self.seed, shift=self.shift), counts)
        return self._write_manifest("world", truth=False)

    @cached_property
    def labelled(self) -> Manifest:
        """The same panoramas, also those to train on with their labels."""
        assert self.manifest
        return self._write_manifest("truth", truth=True)

    def _write_manifest(self, name: str, *, truth: bool) -> Manifest:
        splits: dict[str, Any] = {}
        for split, count, labels in (
            ("target-train", self.images, "labels_withheld/" if truth else ""),
            ("target-test", self.tests, "labels/"),
        ):
            splits[split] = {"images": [f"images/{split}/{split}-{k:05d}.png" for k in range(count)]}
            if labels:
                splits[split]["labels"] = {"replace": [["images/", labels], [".png", "_labelTrainIds.png"]]}
        data = {"name": name, "root": str(self.folder), "projection": "erp", "label_space": "cityscapes19"}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(data | {"splits": splits}, sort_keys=False))
        return load_manifest(path)

    def config(self, *changes: str, teacher: str = TEACHERS[0]) -> Config:
        weights = ROOT / "demo" / "weights" / f"ta_{teacher}.safetensors"
        model = f"teacher.model.config=demo_{teacher}", f"teacher.model.checkpoint={weights}"
        places = f"cache={self.folder}/cache", "device=cpu", "train.split=target-train"
        return load_config(CONFIG, [*places, *model, *changes])

    def fuse(self, config: Config) -> None:
        """Brings the cache up to date."""
        from stages.fuse.stage import fuse
        from stages.precompute.stage import precompute

        with console_progress() as progress:
            precompute(self.manifest, config, progress=progress)
            fuse(self.manifest, config, progress=progress)

    def adapt(self, config: Config, rounds: int) -> list[Round]:
        """Runs adaptation rounds in this process."""
        from stages.adapt.stage import adapt
        from stages.fuse.stage import fuse
        from stages.precompute.stage import precompute

        self.fuse(config)
        with console_progress() as progress:

            def run_stage(stage: str, options: Sequence[str]) -> None:
                adapted = load_config(Path(options[options.index("--config") + 1]))
                if stage == "precompute":
                    precompute(self.manifest, adapted, only=["teacher"], progress=progress)
                else:
                    fuse(self.manifest, adapted, progress=progress)

            return adapt(self.manifest, config, rounds, self.folder / "runs", run_stage, progress=progress)

    def evaluate(self, config: Config) -> dict[str, float]:
        """Returns true and expected mIoU, accuracy and calibration error of the TA and of the ensemble, percent.

        `expected` is that of the panoramas without labels, `expected_tests` that of the labelled ones, which no TA was
        trained on; neither reads a label.
        """
        from stages.adapt.stage import expected_scores
        from stages.evaluate.stage import evaluate

        self.fuse(config)
        (ta, ensemble), _ = evaluate(self.manifest, [config], splits=["target-test"])
        ta_expected, expected = expected_scores(self.manifest, config)
        return {
            "ta": ta.miou, "ta_accuracy": ta.accuracy, "ta_expected": ta_expected,
            "best": ensemble.miou, "accuracy": ensemble.accuracy, "expected": expected,
            "ta_expected_tests": ta.expected_miou, "expected_tests": ensemble.expected_miou,
            "ece": ensemble.ece, "precision_60": ensemble.precision_at_60,
        }  # fmt: skip

    def risk_areas(self, config: Config) -> dict[str, float]:
        """Returns the area under the risk-coverage curve of the ensemble's labels, percent: pixels in the order of `M`,
        and of the TA's confidence.
        """
        self.fuse(config)
        artefact, counts = config.artefact(self.manifest, "fused"), np.zeros((2, 256, 2))
        for record in self.manifest.select(("target-test",)):
            assert record.label_path is not None
            truth = read_labels(record.label_path, self.manifest.preprocessing, self.manifest.label_space)
            group, labelled = artefact.read(record.id), truth < self.manifest.label_space.num_classes
            confidence = np.rint(255 * stitched_probabilities(group).max(axis=0)).astype(np.uint8)
            correct = group.read_array("label", ndim=2) == truth
            for index, weight in enumerate((group.read_array("weight", ndim=2), confidence)):
                counts[index] += weight_counts(weight[labelled], correct[labelled])
        return {"risk_area": risk_area(counts[0]), "risk_area_ta": risk_area(counts[1])}

    def train(self, config: Config, labels: str, steps: int, *, like_ta: bool = False) -> dict[str, float]:
        """Trains a student; `labels` is `ta`, `truth` or `ensemble`. Returns its mIoU in percent.

        It is the demo's student or, `like_ta`, the network of the TA with the TA's weights.
        """
        from benchmarks.student import short_schedule
        from stages.evaluate.stage import evaluate
        from stages.train.configs import read_config, student_config
        from stages.train.stage import train_student

        weights = read_config(student_config("goodsam_demo")).model.mka
        used = ("whole", "ensemble", "confident", "boundary") if labels == "ensemble" else ("confident",)
        overrides: dict[str, Any] = {f"model.mka.{term}": weights[term] if term in used else 0.0 for term in weights}
        changes: dict[str, Any] = {"iterations": steps, "workers": 0, "overrides": overrides}
        if like_ta:
            model: Any = config.teacher.model
            overrides |= short_schedule()
            changes |= {"student": str(model.config), "load_from": model.checkpoint}
        manifest, reader = self.manifest, None
        if labels == "truth":
            manifest = self.labelled
            reader = LabelReader(manifest, ("target-train",))
        else:
            self.fuse(config)
        train = config.train.model_copy(update=changes)
        key = config.artefacts(ImagePreprocessing()).key("fused")
        folder = self.folder / "students" / f"{labels}-{key}-{steps}{'-like-ta' * like_ta}"
        checkpoint = train_student(manifest, config.model_copy(update={"train": train}), folder, reader=reader)
        (score,), _ = evaluate(
            self.manifest, [config], splits=["target-test"], students=[checkpoint], pseudo_labels=False
        )
        return {"miou": score.miou}


@dataclass(frozen=True)
class Bench:
    """Worlds, and the rows that are measured on them."""

    images: int
    tests: int
    iterations: int
    steps: int
    work: Path
    store: Rows

    def world(self, shift: Shift, seed: int) -> World:
        return World(shift, seed, self.images, self.tests, self.work)

    def row(self, world: World, name: str, settings: dict[str, Any], measure: Any) -> dict[str, Any]:
        """Returns the figures of a row, measured if they are missing; its seconds are among them."""
        described = {"version": VERSION, "row": name, "shift": world.shift, "seed": world.seed, "images": self.images}

        def timed() -> dict[str, Any]:
            start = time.perf_counter()
            return {**measure(), "seconds": time.perf_counter() - start}

        stored = self.store.get({**described, "tests": self.tests, **settings}, timed)
        figures = {name: value for name, value in stored.items() if isinstance(value, float)}
        echo(f"{world.shift} {world.seed}, {name}: {', '.join(f'{k} {v:.2f}' for k, v in figures.items())}")
        return figures

    def settings(self, world: World) -> Config:
        return world.config(f"adapt.iterations={self.iterations}")

    def rounds(self, shift: Shift, seed: int, count: int) -> list[dict[str, Any]]:
        """Returns the figures of the TA as shipped, and those after each round from 0."""
        world = self.world(shift, seed)
        config = self.settings(world)
        described = {"adapt": config.adapt.model_dump(mode="json")}
        figures = [self.row(world, "as shipped", {}, lambda: world.evaluate(world.config()))]
        for number in range(count + 1):

            def measure(number: int = number) -> dict[str, float]:
                made = [r for r in world.adapt(config, number) if r.number == number]
                return world.evaluate(load_config(made[-1].config) if made else config)

            figures.append(self.row(world, f"ours, round {number}", {**described, "round": number}, measure))
        return figures

    def student(self, seed: int, labels: str, rounds: int = -1, *, like_ta: bool = False) -> float:
        """Returns the mIoU of a student on the strong world; the TA is adapted with `rounds` from 0."""
        world, steps = self.world("strong", seed), self.steps * (LARGE if like_ta else 1)
        config = self.settings(world)

        def measure() -> dict[str, float]:
            used = config
            if rounds >= 0 and (made := world.adapt(config, rounds)):
                used = load_config(made[-1].config).model_copy(update={"train": config.train})
            if labels == "ta":
                used = used.model_copy(update={"fusion": world.config("fusion.rule=ta").fusion})
            return world.train(used, labels, steps, like_ta=like_ta)

        settings = {"steps": steps, "rounds": rounds, "adapt": config.adapt.model_dump(mode="json")}
        name = f"{'large ' * like_ta}student of {labels}{f', {rounds} rounds' if rounds >= 0 else ''}"
        return float(self.row(world, name, settings, measure)["miou"])

    def risk_areas(self, shift: Shift, seed: int) -> dict[str, Any]:
        """Returns how well `M` and the TA's confidence order the pixels, with the TA as shipped."""
        world = self.world(shift, seed)
        return self.row(world, "order of pixels", {}, lambda: world.risk_areas(world.config()))

    def rules(self, shift: Shift, teacher: str) -> list[dict[str, Any]]:
        """Returns a row for each rule with a TA as shipped, on a world of its own with as many panoramas as tests."""
        world = World(shift, FIRST_SEED, self.tests, self.tests, self.work)
        rows = []
        for rule in RULES:
            config = world.config(f"fusion.rule={rule}", teacher=teacher)
            rows.append(self.row(world, f"{teacher}, {rule}", {"own": self.tests}, lambda c=config: world.evaluate(c)))
        return rows


def run(
    images: int = IMAGES,
    tests: int = TESTS,
    iterations: int = ITERATIONS,
    steps: int = STEPS,
    seeds: int = SEEDS,
    rounds: int = ROUNDS,
    work: Path = WORK,
    stored: Path = ROWS,
) -> dict[str, Any]:
    """Measures the missing rows and prints the tables.

    Args:
        images: panoramas without labels.
        tests: panoramas with labels.
        iterations: steps of a round.
        steps: steps of a student.
        seeds: worlds of each shift.
        rounds: rounds on the strong world; on the mild one, at most 2.
        work: folder of worlds, caches and trainings.
        stored: file of the finished rows.

    Returns:
        Means over the seeds, percent.
    """
    bench = Bench(images, tests, iterations, steps, work, Rows(stored))
    worlds = range(FIRST_SEED, FIRST_SEED + seeds)
    strong = [bench.rounds("strong", seed, rounds) for seed in worlds]
    mild = [bench.rounds("mild", seed, min(2, rounds)) for seed in worlds]
    figures: dict[str, Any] = {"images": images, "tests": tests, "seeds": seeds, "iterations": iterations}
    for name, found in (("", strong), ("mild_", mild)):
        print_table(
            f"{'mild' if name else 'strong'} shift: mean ± standard deviation over {seeds} worlds; percent",
            ["after", "TA", "best", "±", "expected", "accuracy", "ECE"],
            [_cells(number, [rows[number] for rows in found]) for number in range(len(found[0]))],
        )
        chosen = [max(rows[1:], key=lambda row: row["expected"]) for rows in found]
        figures |= {
            f"{name}ta": _mean(found, 0, "ta"),
            f"{name}best": _mean(found, 0, "best"),
            f"{name}ta_adapted": round(float(np.mean([row["ta"] for row in chosen])), 2),
            f"{name}best_adapted": round(float(np.mean([row["best"] for row in chosen])), 2),
            f"{name}rounds": [_mean(found, number, "best") for number in range(1, len(found[0]))],
        }
    figures["ece_after_rounds"] = _mean(strong, rounds + 1, "ece")
    for gap in ("strong", "mild"):
        areas = [bench.risk_areas(gap, seed) for seed in worlds]  # type: ignore[arg-type]
        for name in ("risk_area", "risk_area_ta"):
            figures[f"{gap}_{name}"] = round(float(np.mean([area[name] for area in areas])), 3)
    for name, labels, adapted, like_ta in (
        ("student_ta_labels", "ta", -1, False),
        ("student_best", "ensemble", -1, False),
        ("student_adapted", "ensemble", 1, False),
        ("student_truth", "truth", -1, False),
        ("large_student_ta_labels", "ta", -1, True),
        ("large_student_adapted", "ensemble", 1, True),
    ):
        scores = [bench.student(seed, labels, min(adapted, rounds), like_ta=like_ta) for seed in worlds]
        figures |= {name: round(float(np.mean(scores)), 2), f"{name}_spread": round(float(np.std(scores)), 2)}
    shifts: tuple[Shift, ...] = ("none", "mild", "strong")
    groups = [bench.rules(shift, teacher) for shift in shifts for teacher in TEACHERS] + strong + mild
    pairs = [(row["expected_tests"], row["best"]) for rows in groups for row in rows]
    figures["rank_correlation"] = round(float(spearmanr(*zip(*pairs, strict=True)).statistic), 3)
    figures["rank_rows"] = len(pairs)
    losses = [_loss_by_choice(rows) for rows in groups]
    figures |= {"choice_loss": round(float(np.mean(losses)), 2), "choice_loss_largest": round(max(losses), 2)}
    edges = bench.store.get({"version": VERSION, "row": "window edges", "real": CHECKPOINT.is_file()}, window_edges.run)
    figures["window_edge_ratio"] = edges["window_edge_ratio"]
    return figures


def _mean(found: Sequence[Sequence[dict[str, Any]]], number: int, name: str) -> float:
    return round(float(np.mean([rows[number][name] for rows in found])), 2)


def _cells(number: int, rows: Sequence[dict[str, Any]]) -> list[Any]:
    title = "nothing" if number == 0 else f"round {number - 1}"
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    spread = float(np.std([row["best"] for row in rows]))
    return [title, means["ta"], means["best"], spread, means["expected"], means["accuracy"], means["ece"]]


def _loss_by_choice(rows: Sequence[dict[str, Any]]) -> float:
    """Returns how many points the ensemble of the highest expected mIoU lies below the best one."""
    chosen = max(rows, key=lambda row: row["expected_tests"])
    return float(max(row["best"] for row in rows) - chosen["best"])


def main(
    images: Annotated[int, typer.Option(min=1, help="Panoramas without labels.")] = IMAGES,
    tests: Annotated[int, typer.Option(min=1, help="Panoramas with labels.")] = TESTS,
    iterations: Annotated[int, typer.Option(min=1, help="Steps of a round.")] = ITERATIONS,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a student.")] = STEPS,
    seeds: Annotated[int, typer.Option(min=1, help="Worlds of each shift.")] = SEEDS,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds on the strong world.")] = ROUNDS,
    work: Annotated[Path, typer.Option(help="Folder of worlds, caches and trainings.")] = WORK,
    stored: Annotated[Path, typer.Option("--rows", help="File of the finished rows.")] = ROWS,
) -> None:
    """Runs the benchmark with other numbers."""
    print_json(run(images, tests, iterations, steps, seeds, rounds, work, stored))


if __name__ == "__main__":
    typer.run(main)
