"""Measured rows as tables in the terminal, and as a results file."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.core.atomic_files import write_text
from pipeline.core.settings import short_hash
from pipeline.data.manifests import Manifest
from pipeline.data.results import LiteratureRow, ResultRow, Results
from stages.ablate.grid import format_value
from stages.ablate.stage import Row
from stages.config import Config

#: Titles of the figures in the terminal, in order.
TITLES = {
    "mIoU": "mIoU",
    "expected_mIoU": "expected",
    "things": "things",
    "boundary_F_2px": "F 2 px",
    "coverage": "M cover",
    "precision": "M prec.",
    "l_cc": "L_CC",
    "residual": "residual",
    "weight": "mean M",
    "changed": "changed",
}
IN_NATS = ("l_cc", "residual")


def ensemble_table(rows: Sequence[Row], columns: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Returns titles and cells of the ensembles, without the columns and the figures that no row has."""
    return _table([[row] for row in rows if row.kind == "ensemble"], columns)


def student_table(rows: Sequence[Row], columns: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Returns titles and cells of the students: mean and standard deviation over the seeds."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        if row.kind == "student":
            by_name.setdefault(row.name, []).append(row)
    return _table(list(by_name.values()), columns)


def _table(groups: Sequence[Sequence[Row]], columns: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    names = [name for name in TITLES if any(row.figures.get(name) is not None for rows in groups for row in rows)]
    used = [column for column in columns if any(column in rows[0].values for rows in groups)]
    cells = [
        [
            *(format_value(rows[0].values[column]) if column in rows[0].values else "-" for column in used),
            *(_cell(name, [row.figures.get(name) for row in rows]) for name in names),
        ]
        for rows in groups
    ]
    return [*used, *(TITLES[name] for name in names)], cells


def _cell(name: str, values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    digits = 4 if name in IN_NATS else 2
    spread = f" ± {np.std(known):.{digits}f}" if len(known) > 1 else ""
    return f"{np.mean(known):.{digits}f}{spread}"


def literature_table(rows: Sequence[LiteratureRow]) -> tuple[list[str], list[list[str]]]:
    """Returns titles and cells of published rows."""
    cells = [[row.name, row.source, _cell("mIoU", [row.figures.get("mIoU")])] for row in rows]
    return ["method", "source", TITLES["mIoU"]], cells


def to_results(
    title: str,
    rows: Sequence[Row],
    columns: Sequence[str],
    manifest: Manifest,
    *,
    splits: Sequence[str] = (),
    description: str = "",
    literature: Sequence[LiteratureRow] = (),
    settings_folder: Path,
) -> Results:
    """Returns the rows as a results file; the complete settings of each are written to `settings_folder`."""
    return Results(
        title=title,
        description=description,
        manifest=str(manifest.path.absolute()),
        splits=tuple(splits),
        columns=tuple(columns),
        rows=tuple(_result_row(row, manifest, settings_folder) for row in rows),
        literature=tuple(literature),
    )


def _result_row(row: Row, manifest: Manifest, settings_folder: Path) -> ResultRow:
    artefacts, config = row.config.artefacts(manifest.preprocessing), _write_settings(settings_folder, row.config)
    kinds, figures = ["fused"], dict(row.figures)
    for kind in kinds:  # grows
        kinds += [source for source in artefacts.upstream(kind) if source not in kinds]
    stage = "fuse" if row.kind == "ensemble" else "train"
    command = ["goodsam", stage, "--manifest", str(manifest.path.absolute()), "--config", str(config)]
    iou = figures.pop("IoU", {})
    figures.pop("not_scored", None)
    return ResultRow(
        name=row.name,
        kind=row.kind,  # type: ignore[arg-type]
        settings=row.values,
        seed=row.seed,
        config=str(config),
        checkpoint=row.measurement.checkpoint or None,
        keys={kind: artefacts.key(kind) for kind in reversed(kinds)},
        command=shlex.join(command),
        failed=len(row.failures),
        figures=figures,
        IoU=iou,
        panoramas=row.measurement.panoramas,  # type: ignore[arg-type]
        seconds=row.measurement.seconds,
    )


def _write_settings(folder: Path, config: Config) -> Path:
    """Writes the complete settings of a row, named by their content; returns the file."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    path = folder.absolute() / f"{short_hash(text)}.yaml"
    if not path.is_file():
        write_text(path, text)
    return path


def to_json(row: Row) -> dict[str, Any]:
    """Returns a row as plain JSON values, for the line of `--json`."""
    extra = {} if row.seed is None else {"seed": row.seed, "checkpoint": row.measurement.checkpoint}
    shown = {"kind": row.kind, "settings": row.values, "fused": row.artefact.key, **extra}
    return {**shown, "failed": len(row.failures), **row.figures}


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Writes a line per row, with a column for each figure that is a number."""
    lines = []
    for row in rows:
        numbers = {name: value for name, value in to_json(row).items() if not isinstance(value, dict | list)}
        lines.append({name: format_value(value) for name, value in row.values.items()} | numbers)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for line in lines for name in line)))
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, text.getvalue())
