"""Measures the ensembles and the students of a table over one cache. Finished rows are not measured again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.cache import Artefact
from pipeline.cache.artefact_spec import ArtefactKeys
from pipeline.cache.incremental import Report
from pipeline.core.hashing import file_digest
from pipeline.core.progress import Progress, SilentProgress
from pipeline.core.settings import short_hash
from pipeline.data.labels import load_label_space
from pipeline.data.manifests import ImageRecord, Manifest
from pipeline.execution.executor import Execution
from pipeline.geometry.views import make_views
from stages.ablate.grid import Combination, describe
from stages.ablate.signals import compute_signals
from stages.ablate.store import Measurement, Store
from stages.commands import stage_function
from stages.config import Config, load_config

ENSEMBLE, STUDENT = "ensemble", "student"  #: kinds of rows

_FIGURES = 3  #: Increased when the same artefacts give other figures.


@dataclass(frozen=True)
class Row:
    """A measured row.

    Attributes:
        kind: `ensemble` or `student`.
        values: value under the title of each column.
        config: the settings, those of an adapted TA included.
        artefact: the artefact `fused`.
        measurement: its figures.
        failures: the reason of each failure by image id.
        computed: number of images that this run computed of each kind of artefact.
        seed: of a student.
    """

    kind: str
    values: dict[str, Any]
    config: Config
    artefact: Artefact
    measurement: Measurement
    failures: dict[str, str] = field(default_factory=dict)
    computed: dict[str, int] = field(default_factory=dict)
    seed: int | None = None

    @property
    def name(self) -> str:
        """The values in words."""
        return describe(self.values) or "as in the settings"

    @property
    def figures(self) -> dict[str, Any]:
        return self.measurement.figures

    def same_ensemble(self, other: Row) -> bool:
        """Whether both rows are one ensemble under the same values."""
        return (self.kind, self.values, self.artefact.key) == (other.kind, other.values, other.artefact.key)


@dataclass(frozen=True)
class Measuring:
    """What all rows of a table have in common.

    Attributes:
        manifest: the data set.
        store: measurements of former runs.
        work_dir: folder below which adapted TAs and students get a folder each.
        splits: the splits that are scored; empty: all.
        label_space: score in these classes instead of the manifest's.
        execution: processes and threads.
        progress: receives the progress.
    """

    manifest: Manifest
    store: Store
    work_dir: Path
    splits: Sequence[str] = ()
    label_space: str | None = None
    execution: Execution = field(default_factory=Execution)
    progress: Progress = field(default_factory=SilentProgress)

    def check(self, combinations: Sequence[Combination]) -> None:
        """Raises `UserError` for settings that cannot work, as far as that is known without an image."""
        self.manifest.select(self.splits)
        if self.label_space is not None:
            load_label_space(self.label_space).mapping_from(self.manifest.label_space)
        for combination in combinations:
            config = combination.config
            stage_function("precompute", "check")(self.manifest, config)
            config.artefacts(self.manifest.preprocessing).key("fused")
            if self.manifest.preprocessing.size is not None:
                for views in (config.sam.views, config.teacher.views):
                    make_views(views, *self.manifest.preprocessing.size)
            if combination.rounds is not None:
                stage_function("adapt", "check_adaptable")(config, trains=combination.rounds > 0)
            if combination.seeds or combination.rounds is not None:
                self.manifest.select((config.train.split,))

    def used_splits(self, combination: Combination) -> tuple[str, ...]:
        """Returns the splits that the combination needs: those scored and the one trained on; empty: all."""
        trains = bool(combination.seeds) or combination.rounds is not None
        more = (combination.config.train.split,) if trains and self.splits else ()
        return tuple(dict.fromkeys([*self.splits, *more]))

    def rows(self, combinations: Sequence[Combination], done: Callable[[list[Row]], None]) -> list[Row]:
        """Measures all rows, and calls `done` with those that are finished after each.

        Combinations that differ in the training only have one row for their ensemble.
        """
        self.check(combinations)
        rows: list[Row] = []
        for number, combination in enumerate(combinations, start=1):
            self.progress.note(f"{number}/{len(combinations)}: {combination.name}")
            config = self._adapted_config(combination)
            ensemble = self._ensemble(combination, config)
            if not any(row.same_ensemble(ensemble) for row in rows):
                rows.append(ensemble)
                done(rows)
            for seed in combination.seeds:
                rows.append(self._student(combination, config, ensemble, seed))
                done(rows)
        return rows

    def _adapted_config(self, combination: Combination) -> Config:
        """Adapts the TA with the combination's rounds; returns the settings with it."""
        config = combination.config
        if combination.rounds is None:
            return config
        self._fuse(combination, config)
        stages = {"precompute": self._teacher_logits, "fuse": self._fuse}

        def run_stage(stage: str, options: Sequence[str]) -> None:
            stages[stage](combination, load_config(Path(options[options.index("--config") + 1])))

        adapt = stage_function("adapt")
        rounds = adapt(self.manifest, config, combination.rounds, self.work_dir, run_stage, progress=self.progress)
        return load_config(rounds[-1].config) if rounds else config

    def _teacher_logits(self, combination: Combination, config: Config) -> list[Report]:
        return self._precompute(combination, config, ["teacher"])

    def _precompute(self, combination: Combination, config: Config, kinds: Sequence[str]) -> list[Report]:
        reports: list[Report] = stage_function("precompute")(
            self.manifest,
            config,
            splits=self.used_splits(combination),
            only=kinds,
            execution=self.execution,
            progress=self.progress,
        )
        return self._noted(reports)

    def _fuse(self, combination: Combination, config: Config) -> list[Report]:
        """Computes what is missing of the ensembles and of all that they are made from; the last report is theirs."""
        kinds = upstream_kinds(config.artefacts(self.manifest.preprocessing))
        reports = self._precompute(combination, config, kinds)
        report = stage_function("fuse")(
            self.manifest,
            config,
            splits=self.used_splits(combination),
            execution=self.execution,
            progress=self.progress,
        )
        return [*reports, *self._noted([report])]

    def _noted(self, reports: Sequence[Report]) -> list[Report]:
        for report in reports:
            if report.computed:
                self.store.add_rate(report.artefact.kind, report.artefact.key, report.computed, report.seconds)
        return list(reports)

    def _ensemble(self, combination: Combination, config: Config) -> Row:
        reports = self._fuse(combination, config)
        artefact, failures = reports[-1].artefact, dict(reports[-1].failures)
        records = [record for record in self.manifest.select(self.splits) if record.id not in failures]
        name = self._content_hash({"fused": artefact.key}, artefact, records)
        measured = self.store.find(name)
        if measured is None and records:
            seconds = {
                "fuse" if report.artefact.kind == "fused" else "precompute": report.seconds
                for report in reports
                if report.computed
            }
            figures, panoramas = compute_signals(artefact, records)
            scores, unscored = self._evaluate([config])
            measured = _measurement(scores[1], figures, panoramas, seconds)
            failures = {**unscored, **failures}
            if len(failures) == len(reports[-1].failures):
                self.store.add(name, measured)
        computed = {report.artefact.kind: report.computed for report in reports}
        values = combination.ensemble_values
        return Row(ENSEMBLE, values, config, artefact, measured or Measurement({}), failures, computed)

    def _student(self, combination: Combination, config: Config, ensemble: Row, seed: int) -> Row:
        config = with_seed(config, seed)
        folder = stage_function("train", "run_folder")(self.work_dir, self.manifest, config)
        records = self.manifest.select(self.splits)
        name = self._content_hash({"student": folder.name}, ensemble.artefact, records)
        measured = self.store.find(name)
        failures: dict[str, str] = {}
        if measured is None:
            began = time.monotonic()
            checkpoint = stage_function("train", "train_student")(
                self.manifest, config, folder, allow_partial=bool(ensemble.failures), progress=self.progress
            )
            seconds = {"train": time.monotonic() - began}
            (score,), failures = self._evaluate([config], students=[checkpoint], pseudo_labels=False)
            measured = _measurement(score, {}, {}, seconds, str(checkpoint))
            if not failures:
                self.store.add(name, measured)
            if config.train.iterations:
                self.store.add_rate(STUDENT, config.train.student, config.train.iterations, seconds["train"])
        return Row(STUDENT, combination.values, config, ensemble.artefact, measured, failures, seed=seed)

    def _evaluate(self, configs: Sequence[Config], **options: Any) -> tuple[list[Any], dict[str, str]]:
        common = {"splits": self.splits, "label_space": self.label_space, "progress": self.progress}
        result: tuple[list[Any], dict[str, str]] = stage_function("evaluate")(
            self.manifest, configs, **common, **options
        )
        return result

    def _content_hash(self, named: dict[str, str], fused: Artefact, records: Sequence[ImageRecord]) -> str:
        """Returns a hash of what is scored and of the labels."""
        markers = fused.find_markers(record.id for record in records)
        labels = {r.id: file_digest(r.label_path) for r in records if r.label_path is not None}
        ensembles = {r.id: marker.content for r, marker in zip(records, markers, strict=True) if marker is not None}
        return short_hash(
            {**named, "ensembles": ensembles, "labels": labels, "space": self.label_space, "figures": _FIGURES}
        )


def _measurement(
    scores: Any,
    figures: dict[str, float],
    panoramas: dict[str, dict[str, float]],
    seconds: dict[str, float],
    checkpoint: str = "",
) -> Measurement:
    for image_id, miou in scores.by_image.items():
        if not math.isnan(miou):  # without labels
            panoramas.setdefault(image_id, {})["mIoU"] = round(float(miou), 2)
    rounded = {stage: round(value, 1) for stage, value in seconds.items()}
    return Measurement(figures | scores.figures(), panoramas, rounded, checkpoint)


def with_seed(config: Config, seed: int) -> Config:
    """Returns the settings with the seed of the training."""
    return config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})


def upstream_kinds(artefacts: ArtefactKeys) -> list[str]:
    """Returns the kinds of artefacts that `fused` is computed from, directly or not."""
    kinds = ["fused"]
    for kind in kinds:  # grows
        kinds += [source for source in artefacts.upstream(kind) if source not in kinds]
    return kinds[1:]
