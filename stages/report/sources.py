"""Tables of results files, and what the pictures of a table are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.cache.fused_reader import CacheReader
from pipeline.core.errors import ImageError, UserError
from pipeline.core.progress import Progress
from pipeline.core.reading import read_yaml
from pipeline.data.manifests import ImageRecord, Manifest, load_manifest
from pipeline.data.results import ResultRow, Results
from stages.config import Config, load_config
from stages.report.gallery import QUALITY, measure, signals_of
from stages.report.layers import Source
from stages.report.tables import TableRow, format_setting, merge_seeds, name_figures


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
    rows, literature = (
        tuple(row.model_copy(update={"figures": name_figures(row.figures)}) for row in part)
        for part in (results.rows, results.literature)
    )
    table, settings = Table(results.model_copy(update={"rows": rows, "literature": literature}), file), {}
    for row in table.rows:
        if row.first.config:
            try:
                settings[row.name] = read_yaml(table.path(row.first.config))
            except UserError:
                continue  # a results file alone, without the settings beside it
    return replace(table, settings=settings)


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
    """Returns what the pictures show: the table's best ensemble, that of the row `against`, and its best student.

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
    figures = {
        image_id: dict(values) for row in (best.rows if best else ()) for image_id, values in row.panoramas.items()
    }
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
        return {
            image_id: {**measured.get(image_id, {}), **figures.get(image_id, {})}
            for image_id in {**measured, **figures}
        }
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
