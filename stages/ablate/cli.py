"""Command line of `ablate`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.core.cli import SOME_IMAGES_FAILED, echo, print_json, print_table
from stages.commands import stage_function
from stages.options import (
    CacheOption,
    ConfigOption,
    FusionOption,
    ManifestOption,
    SetOption,
    SplitOption,
    ThreadsOption,
    WorkersOption,
    execution,
    run_overrides,
    with_demo,
)

if TYPE_CHECKING:
    from stages.ablate.stage import Row


def command(
    vary: Annotated[
        list[str],
        typer.Option(
            "--vary",
            help="A setting and its values, e.g. fusion.rule=paper,best. Repeatable: every combination is a row. "
            "Settings that change together: sam.views.stride,teacher.views.stride=128,256.",
        ),
    ],
    manifest: ManifestOption = None,
    config: ConfigOption = None,
    fusion: FusionOption = None,
    set_: SetOption = None,
    cache: CacheOption = None,
    split: SplitOption = None,
    label_space: Annotated[
        str | None, typer.Option("--label-space", help="Score in these classes instead of the manifest's.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="A .csv or .json file for the table.")] = None,
    sheets: Annotated[
        Path | None, typer.Option("--sheets", help="A folder for one picture a panorama, with the labels of every row.")
    ] = None,
    work_dir: Annotated[
        Path, typer.Option("--work-dir", help="Measured rows are kept below it, and not measured again.")
    ] = Path("work_dirs"),
    workers: WorkersOption = 1,
    threads: ThreadsOption = 1,
) -> None:
    """A table over one cache, one row per combination of settings.

    Each row is precomputed (what is missing), fused and, where there are labels, scored. Without labels: L_CC, the
    disagreement of the TA's views in nats, its residual after pooling, the mean of M, and the share of changed labels.
    """
    from pipeline.core.errors import UserError
    from pipeline.core.progress import console_progress
    from pipeline.data.manifests import load_manifest
    from stages.ablate.grid import combinations, parse_vary
    from stages.ablate.stage import Stages, ablate, plain, table

    if out is not None and out.suffix not in (".csv", ".json"):
        raise UserError(f"--out {out}: expected a file that ends in .csv or .json")
    varied = [parse_vary(text) for text in vary]
    manifest, config = with_demo(manifest, config)
    grid = combinations(config, run_overrides(config, set_, cache, fusion), varied)
    data = load_manifest(manifest)
    panoramas = len(data.select(split or ()))
    echo(f"{data.name}: {len(grid)} rows, {panoramas} panoramas")
    with console_progress() as progress:
        rows = ablate(
            data,
            grid,
            Stages(stage_function("precompute", "check"), *map(stage_function, ("precompute", "fuse", "evaluate"))),
            work_dir / data.name / "ablate.json",
            splits=split or (),
            label_space=label_space,
            execution=execution(workers, threads, None, None),
            progress=progress,
        )
    print_table(f"{data.name}, {panoramas} panoramas; percent, L_CC and residual in nats", *table(rows))
    if out is not None:
        _write(out, rows)
        echo(f"table: {out}")
    if sheets is not None:
        from pipeline.data.visualization import save_picture
        from stages.ablate.sheets import draw

        for record in data.select(split or ()):
            if all(record.id in row.failures for row in rows):
                continue
            save_picture(draw(data, rows, record), sheets / f"{record.id}.jpg", quality=92, subsampling=0)
        echo(f"pictures: {sheets}")
    failed = {image_id: reason for row in rows for image_id, reason in row.failures.items()}
    for image_id, reason in failed.items():
        echo(f"{image_id}: failed: {reason}")
    print_json({"stage": "ablate", "panoramas": panoramas, "failed": len(failed), "rows": [plain(row) for row in rows]})
    if failed:
        raise typer.Exit(SOME_IMAGES_FAILED)


def _write(out: Path, rows: Sequence[Row]) -> None:
    """All figures: as JSON, or one line a row with a column for each figure that is a number."""
    from pipeline.core.atomic_files import write_text
    from stages.ablate.grid import shown
    from stages.ablate.stage import plain

    if out.suffix == ".json":
        write_text(out, json.dumps([plain(row) for row in rows], indent=1, ensure_ascii=False))
        return
    lines = []
    for row in rows:
        numbers = {name: value for name, value in plain(row).items() if not isinstance(value, dict | list)}
        lines.append({name: shown(value) for name, value in row.combination.values.items()} | numbers)
    columns = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(lines)
    write_text(out, text.getvalue())
