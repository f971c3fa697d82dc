"""Rows of results files as table rows: mean and spread over seeds, formatted cells, figures with their meaning."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.results import ResultRow, Results


@dataclass(frozen=True)
class Figure:
    """A column of figures.

    Attributes:
        name: key in the results file.
        title: title of the column.
        help: its meaning, one sentence.
        better: 1 if more is better, -1 if less is, 0 if neither.
        labels: whether it needs true labels.
        digits: digits after the point.
    """

    name: str
    title: str
    help: str
    better: int = 0
    labels: bool = False
    digits: int = 2


FIGURES = (
    Figure("mIoU", "mIoU", "Mean IoU over the classes, percent.", 1, True),
    Figure("things", "things", "Mean IoU of the thing classes, percent.", 1, True),
    Figure("accuracy", "accuracy", "Share of correct pixels, percent.", 1, True),
    Figure("seam", "seam", "Mean IoU in the band at the seam, percent.", 1, True),
    Figure("boundary_F_2px", "F 2 px", "Boundary F-score within 2 pixels, percent.", 1, True),
    Figure("ECE", "ECE", "Expected calibration error, percent.", -1, True),
    Figure("coverage", "M cover", "Mean weight of the labelled pixels, percent.", 0, True),
    Figure("precision", "M prec.", "Correct share of the weight, percent.", 1, True),
    Figure("risk_area", "M risk", "Area under the risk-coverage curve of M, percent.", -1, True),
    Figure("expected_mIoU", "expected mIoU", "Mean IoU that the probabilities promise, percent.", 1),
    Figure("l_cc", "L_CC", "Disagreement of the TA's views, nats.", 0, digits=4),
    Figure("residual", "residual", "Disagreement of the TA's views with their pooled prediction, nats.", 0, digits=4),
    Figure("weight", "mean M", "Mean of the weight map, percent.", 0),
    Figure("changed", "changed", "Share of the pixels whose label is not the TA's, percent.", 0),
)

#: Figures that are no column: the number of images is above the table, and others are close to one that is.
NO_COLUMN = ("images", "boundary_F_1px", "boundary_F_4px", "precision_at_60")


@dataclass(frozen=True)
class TableRow:
    """The rows of a results file that differ in nothing but the seed.

    `mean`, `iou` are means over them; `spread` is the sample standard deviation, without figures of a single row.
    """

    name: str
    rows: tuple[ResultRow, ...]
    mean: dict[str, float] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    iou: dict[str, float] = field(default_factory=dict)

    @property
    def first(self) -> ResultRow:
        """The row of the first seed."""
        return self.rows[0]


def name_figures(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Returns figures with the names of `FIGURES`; mmsegmentation calls the accuracy aAcc."""
    return {"accuracy" if name == "aAcc" else name: value for name, value in figures.items()}


def merge_seeds(rows: Sequence[ResultRow]) -> list[TableRow]:
    """Returns a table row for each name and kind, in the order of the first seeds.

    Ensemble and students of one name have the same settings; the name of the students then ends in `, student`.
    """
    groups: dict[tuple[str, str], list[ResultRow]] = {}
    for row in rows:
        groups.setdefault((row.name, row.kind), []).append(row)
    return [
        _merge(f"{name}, student" if kind == "student" and (name, "ensemble") in groups else name, tuple(same))
        for (name, kind), same in groups.items()
    ]


def _merge(name: str, rows: tuple[ResultRow, ...]) -> TableRow:
    values = _collect(row.figures for row in rows)
    mean = {figure: float(np.mean(all_)) for figure, all_ in values.items()}
    spread = {figure: float(np.std(all_, ddof=1)) for figure, all_ in values.items() if len(all_) > 1}
    iou = {label: float(np.mean(all_)) for label, all_ in _collect(row.IoU for row in rows).items()}
    return TableRow(name, rows, mean, spread, iou)


def _collect(figures: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for one in figures:
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    return values


def columns_of(results: Results) -> list[Figure]:
    """Returns the figures that a measured row of the file has, those that this module does not know at the end."""
    names = {name for row in results.rows for name in row.figures if name not in NO_COLUMN}
    known = [figure for figure in FIGURES if figure.name in names]
    others = sorted(names - {figure.name for figure in FIGURES})
    return [*known, *(Figure(name, name, "As the results file names it.", 0, True) for name in others)]


def classes_of(rows: Sequence[TableRow]) -> list[str]:
    """Returns the classes that some row has an IoU of, in the order of the rows."""
    return list(dict.fromkeys(name for row in rows for name in row.iou))


def best_values(rows: Sequence[TableRow], figures: Sequence[Figure]) -> dict[str, float]:
    """Returns the best mean of each figure that has a better and a worse, if there are two rows to compare."""
    best = {}
    for figure in figures:
        values = [row.mean[figure.name] for row in rows if figure.name in row.mean]
        if figure.better and len(values) > 1:
            best[figure.name] = max(values) if figure.better > 0 else min(values)
    return best


def format_setting(value: Any) -> str:
    """Returns the value of a setting on one line; a file by its name without folders."""
    if isinstance(value, str):
        return Path(value).name if Path(value).suffix and "/" in value else value
    if isinstance(value, dict):
        return ", ".join(f"{key} {format_setting(part)}" for key, part in value.items())
    return json.dumps(value, ensure_ascii=False)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns nested settings as one level, `{"fusion.rule.theta": "0.5"}`, to compare them."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def seconds_text(seconds: float) -> str:
    """Returns a duration with a sensible unit."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
