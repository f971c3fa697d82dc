"""Precomputes, fuses and scores every combination of settings over one cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache import Artefact, ImageGroup
from pipeline.cache.artefact_spec import ArtefactKeys
from pipeline.cache.incremental import Report
from pipeline.core.atomic_files import write_text
from pipeline.core.hashing import file_digest
from pipeline.core.progress import Progress, SilentProgress
from pipeline.core.settings import short_hash
from pipeline.data.labels import load_label_space
from pipeline.data.manifests import ImageRecord, Manifest
from pipeline.execution.executor import Execution
from pipeline.geometry.upsample import most_likely, upsample
from pipeline.geometry.views import make_views
from stages.ablate.grid import Combination, format_value
from stages.config import Config

#: Titles of the figures that need no labels: disagreement of the TA's views and its residual after pooling (nats), mean
#: of the weight map, and share of the pixels whose label is not the TA's (percent).
SIGNALS = {"l_cc": "L_CC", "residual": "residual", "weight": "mean M", "changed": "changed"}

#: Titles of the figures of `evaluate` in the table.
SCORES = {
    "mIoU": "mIoU",
    "expected_mIoU": "expected",
    "things": "things",
    "boundary_F_2px": "F 2 px",
    "coverage": "M cover",
    "precision": "M prec.",
}

_FIGURES = 2  #: Increased when the same artefacts give other figures.


@dataclass(frozen=True)
class Stages:
    """Functions of the stages that a row passes through. They are arguments because no stage imports another."""

    check: Callable[[Manifest, Config], None]  # raises UserError for settings that precompute cannot use
    precompute: Callable[..., list[Report]]
    fuse: Callable[..., Report]
    evaluate: Callable[..., tuple[list[Any], dict[str, str]]]


@dataclass(frozen=True)
class Row:
    """A measured row: its settings, their artefact `fused`, figures (means over images), and failures by image id."""

    combination: Combination
    artefact: Artefact
    figures: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def ablate(
    manifest: Manifest,
    combinations: Sequence[Combination],
    stages: Stages,
    store_path: Path,
    *,
    splits: Sequence[str] = (),
    label_space: str | None = None,
    execution: Execution = Execution(),
    progress: Progress = SilentProgress(),
) -> list[Row]:
    """Computes what is missing in the cache, fuses and measures a row for each combination.

    The JSON file `store_path` holds measured figures, under a hash of the ensembles and labels they depend on. It is
    written after each row, so that a stopped run can be continued. Raises `UserError` before any work if settings
    cannot work.
    """
    manifest.select(splits)
    if label_space is not None:
        load_label_space(label_space).mapping_from(manifest.label_space)
    for combination in combinations:
        stages.check(manifest, combination.config)
        check(manifest, combination.config)
    rows, measured = [], json.loads(store_path.read_text()) if store_path.exists() else {}
    for number, combination in enumerate(combinations, start=1):
        progress.note(f"{number}/{len(combinations)}: {combination.name}")
        config = combination.config
        kinds = upstream_kinds(config.artefacts(manifest.preprocessing))
        stages.precompute(manifest, config, splits=splits, only=kinds, execution=execution, progress=progress)
        report = stages.fuse(manifest, config, splits=splits, execution=execution, progress=progress)
        failures = dict(report.failures)
        records = [record for record in manifest.select(splits) if record.id not in failures]
        name = _content_hash(report.artefact, records, label_space)
        figures = measured.get(name, {})
        if not figures and records:
            figures = compute_signals(report.artefact, records)
            scores, unscored = stages.evaluate(
                manifest, [config], splits=splits, label_space=label_space, progress=progress
            )
            figures |= scores[1].figures()
            failures = {**unscored, **failures}
            if len(failures) == len(report.failures):
                measured[name] = figures
                write_text(store_path, json.dumps(measured, indent=1))
        rows.append(Row(combination, report.artefact, figures, failures))
    return rows


def check(manifest: Manifest, config: Config) -> None:
    """Raises `UserError` for settings that cannot work, as far as that is known without an image."""
    config.artefacts(manifest.preprocessing).key("fused")
    if manifest.preprocessing.size is not None:
        for views in (config.sam.views, config.teacher.views):
            make_views(views, *manifest.preprocessing.size)


def upstream_kinds(artefacts: ArtefactKeys) -> list[str]:
    """Returns the kinds of artefacts that `fused` is computed from, directly or not."""
    kinds = ["fused"]
    for kind in kinds:  # grows
        kinds += [source for source in artefacts.upstream(kind) if source not in kinds]
    return kinds[1:]


def compute_signals(fused: Artefact, records: Sequence[ImageRecord]) -> dict[str, float]:
    """Returns the figures of `SIGNALS`, means over `records`."""
    ignore_index = fused.attributes()["ignore_index"]
    images = [_signals(fused.read(record.id), ignore_index) for record in records]
    return {name: round(float(np.mean([image[name] for image in images])), 4) for name in SIGNALS}


def _signals(group: ImageGroup, ignore_index: int) -> dict[str, float]:
    signals, labels = group.attributes["signals"], group.read_array("label", ndim=2)
    changed = np.count_nonzero((labels != ignore_index) & (labels != stitched_labels(group))) / labels.size
    percent = {"weight": 100 * signals["weight"], "changed": 100 * changed}
    return {"l_cc": signals["l_cc"], "residual": signals["residual"], **percent}


def stitched_labels(group: ImageGroup) -> np.ndarray:
    """Returns the labels of the TA's stitched prediction of a fused panorama: uint8 `(H, W)`."""
    stitched = group.read_array("stitched", ndim=3).astype(np.float32)
    height, stride = int(group.attributes["image_size"][0]), int(group.attributes["output_stride"])
    return most_likely(upsample(stitched, stride, height, cyclic=True))


def _content_hash(fused: Artefact, records: Sequence[ImageRecord], label_space: str | None) -> str:
    """Returns a hash of the ensembles and labels that a row is measured on."""
    markers = fused.find_markers(record.id for record in records)
    labels = {r.id: file_digest(r.label_path) for r in records if r.label_path is not None}
    ensembles = {r.id: marker.content for r, marker in zip(records, markers, strict=True) if marker is not None}
    return short_hash(
        {"fused": fused.key, "ensembles": ensembles, "labels": labels, "space": label_space, "figures": _FIGURES}
    )


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[Any]]]:
    """Returns titles and cells for printing, without the figures that no row has."""
    names = {name: title for name, title in (SCORES | SIGNALS).items() if any(name in row.figures for row in rows)}
    cells = [
        [*map(format_value, row.combination.values.values()), *(_cell(name, row.figures.get(name)) for name in names)]
        for row in rows
    ]
    return [*rows[0].combination.values, *names.values()], cells


def _cell(name: str, value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if name in ("l_cc", "residual") else f"{value:.2f}"


def to_json(row: Row) -> dict[str, Any]:
    """Returns a row as plain JSON values."""
    settings, key = row.combination.values, row.artefact.key
    return {"settings": settings, "fused": key, "failed": len(row.failures), **row.figures}
