"""Command line of `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.cli import Result, echo
from stages.commands import stage_function
from stages.options import FusionOption, RunOptions, SplitOption, option


def command(
    run: RunOptions,
    results: Annotated[
        list[Path] | None, typer.Argument(help="Results files of ablate. Default: the ensembles in the cache.")
    ] = None,
    fusion: FusionOption = None,
    split: SplitOption = None,
    student: Annotated[Path | None, option("--student", "A student's checkpoint to show as well.", "FILE")] = None,
    against: Annotated[
        str | None, option("--against", "Row that the others are compared with at first. Default: the first.", "ROW")
    ] = None,
    images: Annotated[int, option("--images", "Panoramas with pictures for each data set.", "N", min=0)] = 9,
    out: Annotated[Path, option("--out", "The page to write.", "FILE")] = Path("work_dirs/report/index.html"),
) -> Result:
    """Writes one HTML page of tables, panoramas and training curves.

    It is opened from the disk and needs no network. With results files, --manifest and --config replace the data set
    and the settings that the files name, for the pictures.
    """
    from pipeline.core.errors import UserError
    from pipeline.core.progress import console_progress
    from pipeline.data.manifests import load_manifest
    from pipeline.data.results import load_results
    from stages.report.cached import Stages, table_of_cache
    from stages.report.sources import table_of
    from stages.report.stage import report

    if out.suffix not in (".html", ".htm"):
        raise UserError(f"--out {out}: expected a file that ends in .html")
    if not results and run.manifest is None:
        raise UserError("report: found neither a results file nor --manifest; expected results of `ablate`, or a cache")
    tables = [table_of(path, load_results(path)) for path in results or ()]
    manifest = load_manifest(run.manifest_file) if run.manifest is not None else None
    changed = run.config is not None or run.set_ or run.cache is not None or fusion is not None
    config = run.read_settings(fusion) if changed or not tables else None
    with console_progress() as progress:
        if not tables and manifest is not None and config is not None:
            stages = Stages(stage_function("evaluate"), stage_function("ablate", "compute_signals"))
            tables = [
                table_of_cache(
                    manifest, config, stages, run.config_file, splits=split or (), student=student, progress=progress
                )
            ]
            config = None if fusion is None else config
        figures = report(
            tables,
            out,
            manifest=manifest,
            config=config,
            student=student,
            against=against,
            images=images,
            progress=progress,
        )
    for note in figures["notes"]:
        echo(note)
    echo(f"page: {out} ({figures['bytes'] / 2**20:.1f} MiB, {figures['panoramas']} panoramas)")
    failed = figures.pop("failures")
    return Result({"stage": "report", **figures, "failed": len(failed)}, failed=bool(failed))
