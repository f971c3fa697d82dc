"""Where the figures and pictures come from: results files, or the ensembles in the cache; and what a row is drawn with."""

from __future__ import annotations

import math
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.cache import Cache
from pipeline.cache.fused_reader import CacheReader
from pipeline.core.errors import ImageError, UserError
from pipeline.core.progress import Progress
from pipeline.core.reading import read_yaml
from pipeline.core.settings import parse_settings
from pipeline.data.manifests import ImageRecord, Manifest, load_manifest
from pipeline.data.results import ResultRow, Results
from stages.config import Config, load_config
from stages.report.gallery import QUALITY, measure, signals_of
from stages.report.layers import Source
from stages.report.tables import TableRow, flatten, format_setting, merge_seeds


@dataclass(frozen=True)
class Stages:
    """Functions of other stages. They are arguments because no stage imports another."""

    evaluate: Callable[..., tuple[list[Any], dict[str, str]]]
    signals: Callable[..., dict[str, float]]  # of an artefact `fused` and records, means


@dataclass(frozen=True)
class Table:
    """A results file, or what a cache holds.

    Attributes:
        file: the results file; None for the rows of a cache.
        settings: complete settings by row name, as far as their files can be read.
        configs: the same, ready to use, for the rows of a cache.
    """

    results: Results
    file: Path | None = None
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    configs: dict[str, Config] = field(default_factory=dict)

    @property
    def rows(self) -> list[TableRow]:
        """The rows, those of several seeds as one."""
        return merge_seeds(self.results.rows)

    def path(self, name: str) -> Path:
        """Returns a path that the results file names; a relative one is relative to it."""
        return Path(name) if self.file is None else self.file.parent / name


def table_of(file: Path, results: Results) -> Table:
    """Returns the table of a results file, with the settings of its rows that can be read."""
    table, settings = Table(results, file), {}
    for row in table.rows:
        if row.first.config:
            try:
                settings[row.name] = read_yaml(table.path(row.first.config))
            except UserError:
                continue  # a results file alone, without the settings beside it
    return replace(table, settings=settings)


def table_of_cache(
    manifest: Manifest,
    config: Config,
    stages: Stages,
    config_file: Path | None,
    *,
    splits: Sequence[str] = (),
    student: Path | None = None,
    progress: Progress,
) -> Table:
    """Returns the rows of a cache: the TA, every ensemble that the settings lead to with some rule, and a student.

    Raises `UserError` if nothing is fused.
    """
    configs = configs_in_cache(manifest, config)
    students = [student] if student is not None else []
    scores, failures = stages.evaluate(
        manifest, list(configs.values()), splits=splits, students=students, progress=progress
    )
    names = ["TA, stitched", *configs, *(f"student {path.parent.name}" for path in students)]
    kinds = ["ensemble"] * (1 + len(configs)) + ["student"] * len(students)
    rows = []
    for name, kind, score in zip(names, kinds, scores, strict=True):
        figures = dict(score.figures())
        iou = figures.pop("IoU", {})
        figures["accuracy"] = figures.pop("aAcc", None)
        figures = {key: value for key, value in figures.items() if not isinstance(value, list)}
        row: dict[str, Any] = {"name": name, "kind": kind, "settings": {"row": name}, "IoU": iou}
        by_image = {key: {"mIoU": value} for key, value in score.by_image.items() if not math.isnan(value)}
        if name in configs:
            fused = configs[name].artefact(manifest, "fused")
            records = [record for record in manifest.select(splits) if fused.find_marker(record.id) is not None]
            figures |= stages.signals(fused, records)
            row |= {"keys": _keys(manifest, configs[name]), "command": _command(manifest, config_file, configs[name])}
        if kind == "student":
            row |= {"checkpoint": str(students[0])}
        rows.append(ResultRow(**row, figures=figures, panoramas=by_image, failed=len(failures)))
    results = Results(
        title=manifest.name,
        description="The ensembles in the cache.",
        manifest=str(manifest.path),
        splits=tuple(splits),
        columns=("row",),
        rows=tuple(rows),
    )
    settings = {name: other.model_dump(mode="json") for name, other in configs.items()}
    return Table(results, None, settings, configs)


def configs_in_cache(manifest: Manifest, config: Config) -> dict[str, Config]:
    """Returns the settings of every ensemble in the cache that differs from `config` in its fusion alone, by name.

    Raises `UserError` if there is none.
    """
    found: dict[str, Config] = {}
    for artefact in Cache(config.cache, manifest.name).readable_artefacts()[0]:
        section = (artefact.attributes().get("settings") or {}).get("fusion")
        if artefact.kind != "fused" or not isinstance(section, Mapping):
            continue
        rule = section.get("rule", {"kind": config.fusion.rule.kind})
        rule = {name: value for name, value in rule.items() if name != "algorithm"}
        data = config.model_dump(mode="json")
        data["fusion"] = {**section, "rule": rule, "label_space": config.fusion.label_space}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # keys hold former names
                other = parse_settings(Config, data, artefact.path)
                same = other.artefact(manifest, "fused").path == artefact.path
        except UserError:
            continue  # the rule of another program
        if same:
            found[_name(section, rule)] = other
    if not found:
        config.artefact(manifest, "fused").attributes()  # raises
        found[config.fusion.rule.kind] = config
    return dict(sorted(found.items()))


def _name(section: Mapping[str, Any], rule: Mapping[str, Any]) -> str:
    """Returns an ensemble's settings in words: its rule, and what is not at its default."""
    others = flatten({**{k: v for k, v in rule.items() if k != "kind"}, **{k: v for k, v in section.items() if k != "rule"}})
    return ", ".join([str(rule.get("kind", "?")), *(f"{name} {value}" for name, value in others.items())])


def _keys(manifest: Manifest, config: Config) -> dict[str, str]:
    artefacts = config.artefacts(manifest.preprocessing)
    return {**artefacts.upstream("fused"), "fused": artefacts.key("fused")}


def _command(manifest: Manifest, config_file: Path | None, config: Config) -> str:
    words = ["goodsam", "fuse", "--manifest", str(manifest.path), "--cache", config.cache]
    words += [] if config_file is None else ["--config", str(config_file)]
    words += ["--fusion", config.fusion.rule.kind]
    changed = config.fusion.model_dump(mode="json", exclude_defaults=True)
    rule = changed.pop("rule", {})
    settings = flatten({"fusion": {"rule": {k: v for k, v in rule.items() if k != "kind"}, **changed}})
    words += [part for name, value in settings.items() if value != "{}" for part in ("--set", f"{name}={value}")]
    return shlex.join(words)


def best_row(rows: Sequence[TableRow], kind: str) -> TableRow | None:
    """Returns the row of a kind with the highest mIoU or, without labels, expected mIoU; the first without figures."""
    rows = [row for row in rows if row.first.kind == kind]
    for figure in QUALITY:
        if known := [row for row in rows if figure in row.mean]:
            return max(known, key=lambda row: row.mean[figure])
    return rows[0] if rows else None


def source_of(
    table: Table,
    *,
    manifest: Manifest | None,
    config: Config | None,
    student: Path | None,
    against: str | None,
    progress: Progress,
) -> Source:
    """Returns what the pictures of a table show: its best ensemble, the ensemble of the row `against`, its best student.

    `manifest`, `config` and `student` replace those of the table. Raises `UserError` if the data set or the settings
    cannot be read.
    """
    drawn = [row for row in table.rows if row.name in table.configs] if table.configs else table.rows
    best = best_row(drawn, "ensemble") or best_row(drawn, "student")
    if manifest is None:
        manifest = load_manifest(table.path(table.results.manifest))
    if config is not None:
        fused = config.artefact(manifest, "fused").path
        best = next((row for row in drawn if _fused_path(table, row, manifest) == fused), None)
    elif best is None:
        raise UserError(f"{table.file}: has no row; expected one whose ensemble can be drawn")
    else:
        config = _config(table, best)
    title = best.name if best else f"rule {config.fusion.rule.kind}"
    others = {}
    compared = next((row for row in drawn if row.name == against and row.first.kind == "ensemble"), None)
    if compared is not None and (best is None or compared.name != best.name):
        others[compared.name] = _config(table, compared)
    if student is None and (trained := best_row(table.rows, "student")) and trained.first.checkpoint:
        path = table.path(trained.first.checkpoint)
        student = path if path.is_file() else None
    figures = {image_id: dict(values) for row in (best.rows if best else ()) for image_id, values in row.panoramas.items()}
    source = Source(manifest, config, title, others, student, figures)
    return replace(source, figures=_complete_figures(source, records_of(source, table.results.splits), progress))


def _fused_path(table: Table, row: TableRow, manifest: Manifest) -> str | None:
    config = table.configs.get(row.name)
    return f"fused/{row.first.keys.get('fused')}" if config is None else config.artefact(manifest, "fused").path


def _config(table: Table, row: TableRow) -> Config:
    if row.name in table.configs:
        return table.configs[row.name]
    return load_config(table.path(row.first.config))


def records_of(source: Source, splits: Sequence[str] = ()) -> list[ImageRecord]:
    """Returns the panoramas that are fused."""
    known = [split for split in splits if split in source.manifest.settings.splits]
    reader = CacheReader(source.manifest, source.config, tuple(known))
    return [record for record in reader.wanted if record.id not in reader.missing]


def _complete_figures(
    source: Source, records: Sequence[ImageRecord], progress: Progress
) -> dict[str, dict[str, float]]:
    """Returns the figures of single panoramas, completed from the cache: signals, and expected mIoU without labels."""
    figures = {image_id: dict(values) for image_id, values in source.figures.items()}
    ranked = any(name in values for values in figures.values() for name in QUALITY)
    if not ranked:
        measured = measure(source.manifest, source.config, records, progress)
        return {image_id: {**measured.get(image_id, {}), **figures.get(image_id, {})} for image_id in {**measured, **figures}}
    artefact = source.config.artefact(source.manifest, "fused")
    for record in records:
        values = figures.get(record.id)
        if values is not None and "weight" not in values:
            try:
                values.update({**signals_of(artefact.read(record.id)), **values})
            except ImageError:
                continue
    return figures


def describe_settings(row: ResultRow, columns: Sequence[str]) -> list[str]:
    """Returns the cells of a row under the titles of the varied settings."""
    return [format_setting(row.settings[name]) if name in row.settings else "" for name in columns]
