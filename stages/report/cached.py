"""The rows of a cache, for a page without results files: what the settings lead to, scored."""

from __future__ import annotations

import math
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cache import Cache
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress
from pipeline.core.settings import parse_settings
from pipeline.data.manifests import Manifest
from pipeline.data.results import ResultRow, Results
from stages.config import Config
from stages.report.sources import Table
from stages.report.tables import flatten, name_figures


@dataclass(frozen=True)
class Stages:
    """Functions of other stages. They are arguments because no stage imports another."""

    evaluate: Callable[..., tuple[list[Any], dict[str, str]]]
    signals: Callable[..., tuple[dict[str, float], dict[str, dict[str, float]]]]  # means, and those of each image


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
    """Returns the rows of a cache: the TA, each ensemble that the settings lead to with some rule, and a student.

    Raises `UserError` if nothing is fused.
    """
    configs = configs_in_cache(manifest, config, splits)
    students = [student] if student is not None else []
    scores, failures = stages.evaluate(
        manifest, list(configs.values()), splits=splits, students=students, progress=progress
    )
    names = ["TA, stitched", *configs, *(path.parent.name or path.name for path in students)]
    kinds = ["ensemble"] * (1 + len(configs)) + ["student"] * len(students)
    rows = []
    for name, kind, score in zip(names, kinds, scores, strict=True):
        if name == "TA, stitched" and "ta" in configs:
            continue  # the rule ta is the same
        figures = dict(score.figures())
        iou = figures.pop("IoU", {})
        figures = {key: value for key, value in figures.items() if not isinstance(value, list)}
        row: dict[str, Any] = {"name": name, "kind": kind, "settings": {"row": name}, "IoU": iou}
        by_image = {key: {"mIoU": value} for key, value in score.by_image.items() if not math.isnan(value)}
        if name in configs:
            fused = configs[name].artefact(manifest, "fused")
            records = [record for record in manifest.select(splits) if fused.find_marker(record.id) is not None]
            means, by_record = stages.signals(fused, records)
            figures |= means
            by_image = {record.id: {**by_image.get(record.id, {}), **by_record[record.id]} for record in records}
            row |= {"keys": _keys(manifest, configs[name]), "command": _command(manifest, config_file, configs[name])}
        if kind == "student":
            row |= {"checkpoint": str(students[0])}
        rows.append(ResultRow(**row, figures=name_figures(figures), panoramas=by_image, failed=len(failures)))
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


def configs_in_cache(manifest: Manifest, config: Config, splits: Sequence[str] = ()) -> dict[str, Config]:
    """Returns the settings of the ensembles in the cache that differ from `config` in their fusion alone, by name.

    Ensembles of fewer panoramas than another one are left out: their figures could not be compared. Raises `UserError`
    if there is no ensemble.
    """
    ids = [record.id for record in manifest.select(splits)]
    found: dict[str, Config] = {}
    finished: dict[str, int] = {}
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
            name = _name(section, rule)
            found[name], finished[name] = other, sum(marker is not None for marker in artefact.find_markers(ids))
    if not any(finished.values()):
        config.artefact(manifest, "fused").attributes()  # raises
        return {config.fusion.rule.kind: config}
    return {name: found[name] for name in sorted(found) if finished[name] == max(finished.values())}


def _name(section: Mapping[str, Any], rule: Mapping[str, Any]) -> str:
    """Returns the settings of an ensemble in words: its rule, and what is not at its default."""
    changed = {name: value for name, value in {**section, **rule}.items() if name not in ("rule", "kind")}
    return ", ".join([str(rule.get("kind", "?")), *(f"{name} {value}" for name, value in flatten(changed).items())])


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
