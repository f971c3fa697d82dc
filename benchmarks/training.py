"""World and cache of the training benchmarks, with the settings of `configs/demo.yaml`; kept between runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from demo.splits import Split, WorldSettings
from demo.world import missing_samples, write_world
from pipeline.core.progress import console_progress
from pipeline.core.settings import short_hash
from pipeline.data.manifests import Manifest, load_manifest
from stages.config import Config, load_config

ROOT = Path(__file__).parent.parent
WORK = ROOT / "work_dirs" / "bench_student"
CONFIG = ROOT / "configs" / "demo.yaml"
IMAGES, TESTS = 96, 24
STUDENT = "goodsam_demo"

TERMS = ("whole", "ensemble", "confident", "boundary")

#: The term of a plain cross-entropy on labels and weight.
PLAIN = ("confident",)


@dataclass(frozen=True)
class Row:
    """One way to train.

    Attributes:
        name: name of the row.
        labels: a fusion rule, or `photos` or `truth` for labelled images.
        terms: the terms of MKA that are switched on.
        adapted: train on the ensemble of a TA that was adapted once.
    """

    name: str
    labels: str
    terms: tuple[str, ...] = PLAIN
    adapted: bool = False

    def key(self) -> str:
        """Returns the key of the row in the line of JSON."""
        return self.name.replace(",", "").replace(" ", "_").replace("-", "_")


@dataclass
class Bench:
    """The world and the cache of the training benchmarks.

    Attributes:
        images: unlabelled panoramas to train on.
        tests: labelled panoramas to score on.
        photos: labelled photos.
        work: folder of world, cache and trainings.
        student: a config in mmseg_configs/students.
        start: initial weights; None for those of the demo or, for another student, random ones.
    """

    images: int = IMAGES
    tests: int = TESTS
    photos: int = 0
    work: Path = WORK
    student: str = STUDENT
    start: Path | None = None
    _fused: set[str] = field(default_factory=set)
    _rendered: bool = False

    @property
    def world(self) -> Path:
        return self.work / "world"

    def render(self) -> None:
        """Renders the missing images of the world."""
        if self._rendered:
            return
        counts: dict[Split, int] = {"target-train": self.images, "target-test": self.tests}
        if self.photos:
            counts["source-train"] = self.photos
        missing = len(missing_samples(self.world, counts))
        if missing:
            with console_progress() as progress:
                progress.start("render", missing)
                write_world(self.world, WorldSettings(), counts, advance=lambda _: progress.advance())
        self._rendered = True

    def manifest(self, splits: Iterable[str] = ("target-train", "target-test"), *, truth: bool = False) -> Manifest:
        """Writes a manifest of the first images of the splits.

        With `truth`, target-train has its labels, which no stage reads otherwise.
        """
        counts = {"target-train": self.images, "target-test": self.tests, "source-train": self.photos}
        described: dict[str, Any] = {}
        for split in splits:
            names = [f"images/{split}/{split}-{k:05d}.png" for k in range(counts[split])]
            described[split] = {"images": names}
            if truth or split != "target-train":
                labels = "labels_withheld/" if split == "target-train" else "labels/"
                described[split]["labels"] = {"replace": [["images/", labels], [".png", "_labelTrainIds.png"]]}
        name = "photos" if tuple(splits) == ("source-train",) else "demo"
        data = {"name": name, "root": str(self.world), "label_space": "cityscapes19", "splits": described}
        data["projection"] = "pinhole" if name == "photos" else "erp"
        path = self.work / f"{name}-{short_hash(data)}.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        return load_manifest(path)

    def config(self, rule: str, *changes: str, cache: str | None = None, base: Path = CONFIG) -> Config:
        """Returns the settings of the demo with this rule, the student and its initial weights."""
        overrides = [f"cache={json.dumps(cache or str(self.work / 'cache'))}", "device=cpu"]
        overrides.append(f"train.student={self.student}")
        if self.start is not None:
            overrides.append(f"train.load_from={json.dumps(str(self.start.absolute()))}")
        elif self.student != STUDENT:
            overrides.append("train.load_from=null")
        if load_config(base).fusion.rule.kind != rule:
            overrides.append(f"fusion.rule={rule}")
        return load_config(base, [*overrides, *changes])

    def term_weights(self, row: Row) -> dict[str, float]:
        """Returns the weights of MKA's terms in the student's config, 0 for those that the row switches off."""
        from stages.train.configs import read_config, student_config

        models = [read_config(student_config(name)).model for name in (self.student, STUDENT)]
        weights = models[0].get("mka") or models[1].mka
        return {term: float(weights[term]) if term in row.terms else 0.0 for term in TERMS}

    def fuse(self, rule: str) -> None:
        """Brings the cache up to date for a rule."""
        from stages.fuse.stage import fuse
        from stages.precompute.stage import precompute

        if rule not in self._fused:
            self.render()
            with console_progress() as progress:
                precompute(self.manifest(), self.config(rule), progress=progress)
                fuse(self.manifest(), self.config(rule), progress=progress)
            self._fused.add(rule)

    def adapted(self, rule: str, iterations: int) -> Path:
        """Adapts the TA once and returns the settings file of the round."""
        from stages.adapt.stage import adapt
        from stages.fuse.stage import fuse
        from stages.precompute.stage import precompute

        self.fuse(rule)

        def run_stage(stage: str, options: Any) -> None:
            config = load_config(Path(options[options.index("--config") + 1]))
            if stage == "precompute":
                precompute(self.manifest(), config, only=["teacher"])
            else:
                fuse(self.manifest(), config)

        changes = "adapt.preset=paper", "adapt.learning_rate=3e-5", f"adapt.iterations={iterations}"
        config = self.config(rule, "train.split=target-train", *changes)
        with console_progress() as progress:
            return adapt(self.manifest(), config, 1, self.work / "runs", run_stage, progress=progress)[0].config
