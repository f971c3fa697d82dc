"""Collects everything that the page shows, and writes the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.cache import Cache
from pipeline.core.atomic_files import write_text
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress, SilentProgress, note_failure
from pipeline.data.manifests import Manifest
from pipeline.models.load import load_student
from stages.config import Config
from stages.report.content import Content, Gallery
from stages.report.curves import Curve, draw_charts, read_curves
from stages.report.gallery import choose
from stages.report.layers import Panorama, Source, draw, spaces_of
from stages.report.page import render
from stages.report.sources import Table, records_of, source_of


def report(
    tables: Sequence[Table],
    out: Path,
    *,
    manifest: Manifest | None = None,
    config: Config | None = None,
    student: Path | None = None,
    against: str | None = None,
    images: int = 9,
    progress: Progress = SilentProgress(),
) -> dict[str, Any]:
    """Writes the page `out` and returns figures: rows, panoramas, bytes, notes, and failures by image id.

    Args:
        tables: results files, or the rows of a cache.
        manifest, config, student: replace those that the tables name, for the pictures.
        against: name of the row that others are compared with; by default the first of each table.
        images: number of panoramas of each data set; 0 for none.
        progress: receives the panoramas.

    Pictures that cannot be drawn are left out with a note on the page. Raises `UserError` if no row has the name
    `against`, or something that was asked for by an argument cannot be read.
    """
    names = [row.name for table in tables for row in table.rows]
    if against is not None and against not in names:
        raise UserError(f"--against {against}: found no such row; expected one of {'; '.join(dict.fromkeys(names))}")
    content = Content(list(tables), against)
    failures: dict[str, str] = {}
    drawn: set[str] = set()
    for table in tables:
        data_set = str(manifest.path if manifest else table.path(table.results.manifest))
        if data_set in drawn:
            continue
        drawn.add(data_set)
        try:
            source = source_of(
                table, manifest=manifest, config=config, student=student, against=against, progress=progress
            )
            gallery = _gallery(source, table, images, failures, progress)
        except UserError as error:
            if manifest is not None or config is not None or student is not None:
                raise
            content.notes.append(f"No pictures of {table.results.title}: {error}")
            continue
        if gallery.panoramas:
            content.galleries.append(gallery)
        cache = Cache(source.config.cache, source.manifest.name)
        content.caches[cache.storage.url] = [cache.summarise(artefact) for artefact in cache.readable_artefacts()[0]]
    trainings = _trainings(tables, student)
    content.trainings.extend(trainings)
    content.charts.extend(draw_charts(trainings))
    page = render(content)
    write_text(out, page)
    return {
        "out": str(out),
        "rows": len(names),
        "panoramas": sum(len(gallery.panoramas) for gallery in content.galleries),
        "bytes": len(page.encode()),
        "notes": content.notes,
        "failures": failures,
    }


def _gallery(source: Source, table: Table, images: int, failures: dict[str, str], progress: Progress) -> Gallery:
    records = {record.id: record for record in records_of(source, table.results.splits)} if images else {}
    scored = [image_id for image_id in records if image_id in source.figures]
    choice = choose(source.figures, scored or list(records), images)
    student = load_student(source.student, source.config.device) if source.student and images else None
    panoramas: dict[str, Panorama] = {}
    wanted = [image_id for group in choice.groups.values() for image_id in group]
    progress.start("pictures", len(wanted))
    for image_id in wanted:
        with note_failure(image_id, failures, progress):
            panoramas[image_id] = draw(source, records[image_id], student)
    return Gallery(source, choice, panoramas, spaces_of(source, student))


def _trainings(tables: Sequence[Table], student: Path | None) -> dict[str, Mapping[str, Curve]]:
    """Returns the curves of every student and every adapted TA of the tables, by name."""
    files: dict[str, Path] = {}
    for table in tables:
        for row in table.results.rows:
            name = row.name if row.seed is None else f"{row.name}, seed {row.seed}"
            for file in filter(None, (row.checkpoint, row.config)):
                if file == row.checkpoint or Path(file).parent.name.startswith("adapt-"):
                    files.setdefault(name, table.path(file))
    if student is not None:
        files.setdefault(f"student {student.parent.name}", student)
    curves = {name: read_curves(file) for name, file in files.items()}
    return {name: found for name, found in curves.items() if found}
