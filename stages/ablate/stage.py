"""A table over one cache: every combination of settings precomputed, fused and scored; what is done stays done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache import Artefact, ImageGroup
from pipeline.cache.artefact_spec import ArtefactKeys
from pipeline.cache.incremental import Report
from pipeline.core.hashing import file_digest
from pipeline.core.progress import Progress, SilentProgress
from pipeline.core.settings import short_hash
from pipeline.data.labels import load_label_space
from pipeline.data.manifests import ImageRecord, Manifest
from pipeline.execution.executor import Execution
from pipeline.geometry.upsample import most_likely, upsample
from pipeline.geometry.views import make_views
from stages.ablate.grid import Combination, shown
from stages.ablate.rows import Rows
from stages.config import Config

#: Figures that need no labels, and their titles: disagreement of the TA's views (nats) and its residual, mean of the
#: weight map, and the part of all pixels whose label is not the TA's (both in percent).
SIGNALS = {"l_cc": "L_CC", "residual": "residual", "weight": "mean M", "changed": "changed"}

#: Figures of `evaluate` that a table shows, and their titles.
SCORES = {
    "mIoU": "mIoU",
    "things": "things",
    "boundary_F_2px": "F 2 px",
    "coverage": "M cover",
    "precision": "M prec.",
}

#: Raised when the same artefacts give other figures.
_FIGURES = 1


@dataclass(frozen=True)
class Stages:
    """The functions of the stages that a row goes through; handed in, because no stage imports another.

    `check` is that of `precompute`: it refuses what cannot work.
    """

    check: Callable[[Manifest, Config], None]
    precompute: Callable[..., list[Report]]
    fuse: Callable[..., Report]
    evaluate: Callable[..., tuple[list[Any], dict[str, str]]]


@dataclass(frozen=True)
class Row:
    """A combination, the artefact of its ensembles, its figures (means over images; `evaluate`'s where there are
    labels), and what went wrong by image id."""

    combination: Combination
    artefact: Artefact
    figures: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def ablate(
    manifest: Manifest,
    combinations: Sequence[Combination],
    stages: Stages,
    kept: Path,
    *,
    splits: Sequence[str] = (),
    label_space: str | None = None,
    execution: Execution = Execution(),
    progress: Progress | None = None,
) -> list[Row]:
    """A row for each of `combinations`: what is missing in the cache is computed, fused and measured.

    Figures are kept in the JSON file `kept` under the content of the ensembles and labels that they were measured on.
    Raises `UserError` before any work for settings that cannot work.
    """
    progress = progress or SilentProgress()
    manifest.select(splits)
    if label_space is not None:
        load_label_space(label_space).mapping_from(manifest.label_space)
    for combination in combinations:
        stages.check(manifest, combination.config)
        check(manifest, combination.config)
    rows, measured = [], Rows(kept)
    for number, combination in enumerate(combinations, start=1):
        progress.note(f"{number}/{len(combinations)}: {combination.name}")
        config = combination.config
        kinds = upstream(config.artefacts(manifest.preprocessing))
        stages.precompute(manifest, config, splits=splits, only=kinds, execution=execution, progress=progress)
        report = stages.fuse(manifest, config, splits=splits, execution=execution, progress=progress)
        failures = dict(report.failures)
        records = [record for record in manifest.select(splits) if record.id not in failures]
        name = _content(report.artefact, records, label_space)
        if name not in measured.rows and records:
            figures = signals(report.artefact, records)
            if any(record.label_path is not None for record in records):
                scores, unscored = stages.evaluate(
                    manifest, [config], splits=splits, label_space=label_space, progress=progress
                )
                figures |= scores[1].figures()
                failures = {**unscored, **failures}
            if len(failures) == len(report.failures):
                measured.add(name, figures)
        else:
            figures = measured.rows.get(name, {})
        rows.append(Row(combination, report.artefact, figures, failures))
    return rows


def check(manifest: Manifest, config: Config) -> None:
    """Raises `UserError` for settings that cannot work, as far as that can be told without an image."""
    config.artefacts(manifest.preprocessing).key("fused")
    if manifest.preprocessing.size is not None:
        for views in (config.sam.views, config.teacher.views):
            make_views(views, *manifest.preprocessing.size)


def upstream(artefacts: ArtefactKeys) -> list[str]:
    """The artefacts of stage one that `fused` is made from."""
    found: dict[str, None] = {}
    waiting = ["fused"]
    while waiting:
        above = artefacts.upstream(waiting.pop())
        found |= dict.fromkeys(above)
        waiting += above
    return list(found)


def signals(fused: Artefact, records: Sequence[ImageRecord]) -> dict[str, float]:
    """The figures of `SIGNALS`, means over `records`."""
    ignored = fused.attributes()["ignore_index"]
    images = [_signals(fused.read(record.id), ignored) for record in records]
    return {name: round(float(np.mean([image[name] for image in images])), 4) for name in SIGNALS}


def _signals(group: ImageGroup, ignored: int) -> dict[str, float]:
    known = group.attributes["signals"]
    label = group.array("label", ndim=2)
    changed = np.count_nonzero((label != ignored) & (label != stitched_labels(group))) / label.size
    return {
        "l_cc": known["l_cc"],
        "residual": known["residual"],
        "weight": 100 * known["weight"],
        "changed": 100 * changed,
    }


def stitched_labels(group: ImageGroup) -> np.ndarray:
    """The TA's stitched prediction at pixels, uint8 `(H, W)`, of a fused panorama."""
    stitched = group.array("stitched", ndim=3).astype(np.float32)
    height, stride = int(group.attributes["image_size"][0]), int(group.attributes["output_stride"])
    return most_likely(upsample(stitched, stride, height, cyclic=True))


def _content(fused: Artefact, records: Sequence[ImageRecord], label_space: str | None) -> str:
    """What a row is measured on, as a short hash: the content of every ensemble and of its labels."""
    markers = fused.markers_of(record.id for record in records)
    labels = {r.id: file_digest(r.label_path) for r in records if r.label_path is not None}
    ensembles = {r.id: marker.content for r, marker in zip(records, markers, strict=True) if marker is not None}
    return short_hash(
        {"fused": fused.key, "ensembles": ensembles, "labels": labels, "space": label_space, "figures": _FIGURES}
    )


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows for printing; figures that no row has are left out."""
    names = {name: title for name, title in (SCORES | SIGNALS).items() if any(name in row.figures for row in rows)}
    cells = [
        [
            *(shown(value) for value in row.combination.values.values()),
            *("-" if row.figures.get(name) is None else _cell(name, row.figures[name]) for name in names),
        ]
        for row in rows
    ]
    return [*rows[0].combination.values, *names.values()], cells


def _cell(name: str, value: float) -> str:
    return f"{value:.4f}" if name in ("l_cc", "residual") else f"{value:.2f}"


def plain(row: Row) -> dict[str, Any]:
    """`row` as plain JSON."""
    return {
        "settings": row.combination.values,
        "fused": row.artefact.key,
        "failed": len(row.failures),
        **row.figures,
    }
