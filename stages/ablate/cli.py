"""Command line of `ablate`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pipeline.core.cli import Result, echo, print_table
from stages.commands import stage_function
from stages.options import (
    FusionOption,
    LabelSpaceOption,
    LocalExecutionOptions,
    RunOptions,
    SplitOption,
    WorkDirOption,
    option,
)

if TYPE_CHECKING:
    from stages.ablate.stage import Row


def command(
    vary: Annotated[
        list[str],
        option(
            "--vary",
            "A setting and its values, e.g. fusion.rule=paper,best. Repeatable: every combination is a row. "
            "Settings that change together: sam.views.stride,teacher.views.stride=128,256.",
            "KEY=VALUE,VALUE",
        ),
    ],
    run: RunOptions,
    fusion: FusionOption = None,
    split: SplitOption = None,
    label_space: LabelSpaceOption = None,
    out: Annotated[Path | None, option("--out", "A .csv or .json file for the table.", "FILE")] = None,
    sheets: Annotated[
        Path | None, option("--sheets", "One picture per panorama with the labels of every row.", "FOLDER")
    ] = None,
    work_dir: WorkDirOption = Path("work_dirs"),
    *,
    execution: LocalExecutionOptions,
) -> Result:
    """Makes a table, one row per combination of settings.

    Each row is precomputed (what is missing), fused and scored; measured rows are kept below --work-dir. Without
    labels: the expected mIoU, L_CC, the disagreement of the TA's views in nats, its residual after pooling, the mean of
    M, and the share of changed labels.
    """
    from pipeline.core.errors import UserError
    from pipeline.core.progress import console_progress
    from pipeline.data.manifests import load_manifest
    from stages.ablate.grid import check_effect, combinations, parse_vary
    from stages.ablate.stage import Stages, ablate, table, to_json

    if out is not None and out.suffix not in (".csv", ".json"):
        raise UserError(f"--out {out}: expected a file that ends in .csv or .json")
    varied = [parse_vary(text) for text in vary]
    path = run.manifest_file
    grid = combinations(run.config_file, run.overrides(fusion), varied)
    data = load_manifest(path)
    check_effect(grid, varied, data.preprocessing)
    records = data.select(split or ())
    echo(f"{data.name}: {len(grid)} rows, {len(records)} panoramas")
    with console_progress() as progress:
        rows = ablate(
            data,
            grid,
            Stages(stage_function("precompute", "check"), *map(stage_function, ("precompute", "fuse", "evaluate"))),
            work_dir / data.name / "ablate.json",
            splits=split or (),
            label_space=label_space,
            execution=execution.execution(),
            progress=progress,
        )
    print_table(f"{data.name}, {len(records)} panoramas; percent, L_CC and residual in nats", *table(rows))
    if out is not None:
        _write(out, rows)
        echo(f"table: {out}")
    if sheets is not None:
        from pipeline.data.visualization import save_picture
        from stages.ablate.sheets import draw_sheet

        for record in records:
            if not all(record.id in row.failures for row in rows):
                save_picture(draw_sheet(data, rows, record), sheets / f"{record.id}.jpg", quality=92, subsampling=0)
        echo(f"pictures: {sheets}")
    failed = {image_id: reason for row in rows for image_id, reason in row.failures.items()}
    for image_id, reason in failed.items():
        echo(f"{image_id}: failed: {reason}")
    figures = {"panoramas": len(records), "failed": len(failed), "rows": [to_json(row) for row in rows]}
    return Result({"stage": "ablate", **figures}, failed=bool(failed))


def _write(out: Path, rows: Sequence[Row]) -> None:
    """Writes all figures: as JSON, or as CSV with a line per row and a column for each figure that is a number."""
    from pipeline.core.atomic_files import write_text
    from stages.ablate.grid import format_value
    from stages.ablate.stage import to_json

    if out.suffix == ".json":
        write_text(out, json.dumps([to_json(row) for row in rows], indent=1, ensure_ascii=False))
        return
    lines = []
    for row in rows:
        numbers = {name: value for name, value in to_json(row).items() if not isinstance(value, dict | list)}
        lines.append({name: format_value(value) for name, value in row.combination.values.items()} | numbers)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for line in lines for name in line)))
    writer.writeheader()
    writer.writerows(lines)
    write_text(out, text.getvalue())
