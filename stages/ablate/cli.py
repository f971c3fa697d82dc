"""Command line of `ablate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pipeline.core.cli import Result, echo, echo_hint, print_table
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
    from pipeline.data.manifests import Manifest
    from stages.ablate.stage import Measuring, Row
    from stages.ablate.suite import Table
    from stages.config import Config


def command(
    run: RunOptions,
    vary: Annotated[
        list[str] | None,
        option(
            "--vary",
            "A setting and its values, e.g. fusion.rule=paper,best. Repeatable: every combination is a row. "
            "Settings that change together: sam.views.stride,teacher.views.stride=128,256.",
            "KEY=VALUE,VALUE",
        ),
    ] = None,
    suite: Annotated[
        list[str] | None,
        option("--suite", "A table by name or YAML file, students included, e.g. fusion. Repeatable.", "NAME"),
    ] = None,
    plan: Annotated[
        bool, option("--plan", "Only list what exists, what will be computed, how long and how much disk it takes.")
    ] = False,
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
    """Makes tables, one row per combination of settings.

    Each row is precomputed (what is missing), fused and scored. Suites also adapt TAs and train students. Measured rows
    are kept below --work-dir; a suite's table is written to `<work-dir>/<data set>/suites/<suite>/results.json`.
    Without labels: the expected mIoU, L_CC, the disagreement of the TA's views in nats, its residual after pooling, the
    mean of M, and the share of changed labels.
    """
    from pipeline.core.errors import UserError
    from pipeline.core.progress import console_progress
    from pipeline.data.manifests import load_manifest
    from stages.ablate.stage import Measuring
    from stages.ablate.store import Store

    if bool(vary) == bool(suite):
        raise UserError("ablate: expected either --vary KEY=VALUE,VALUE or --suite NAME")
    if out is not None and out.suffix not in (".csv", ".json"):
        raise UserError(f"--out {out}: expected a file that ends in .csv or .json")
    if (out or sheets) and len(suite or ()) > 1:
        raise UserError("ablate: --out and --sheets hold one table; expected one --suite")
    data = load_manifest(run.manifest_file)
    tables = _tables(run.config_file, run.overrides(fusion), vary or (), suite or (), data)
    folder = work_dir / data.name
    with console_progress() as progress:
        measuring = Measuring(data, Store(folder), work_dir, split or (), label_space, execution.execution(), progress)
        if plan:
            return _plan(measuring, tables)
        for table in tables:
            measuring.check(table.combinations)
        measured = [_measure(measuring, table, folder, out, suites=bool(suite)) for table in tables]
    rows = [row for table in measured for row in table]
    records = data.select(split or ())
    if sheets is not None:
        _draw_sheets(data, rows, sheets, split or ())
    failed = {image_id: reason for row in rows for image_id, reason in row.failures.items()}
    for image_id, reason in failed.items():
        echo(f"{image_id}: failed: {reason}")
    return _result(tables, measured, len(records), len(failed))


def _tables(
    config: Path | None, overrides: Sequence[str], vary: Sequence[str], suites: Sequence[str], data: Manifest
) -> list[Table]:
    """Returns the tables that the options describe. Raises `UserError`."""
    from stages.ablate.grid import parse_vary
    from stages.ablate.suite import RowGroup, Suite, expand, read_suite

    def key(settings: Config, students: bool) -> str:
        fused = settings.artefacts(data.preprocessing).key("fused")
        return fused + (repr(stage_function("train", "training_key")(settings)) if students else "")

    if not vary:
        return [expand(*read_suite(name), config, overrides, key) for name in suites]
    varied = [parse_vary(text) for text in vary]
    places = [place for one in varied for place in one.places]
    group = RowGroup(vary={", ".join(one.places): list(one.values) for one in varied})
    from pipeline.core.errors import UserError

    if twice := [place for place in places if places.count(place) > 1]:
        raise UserError(f"--vary: {twice[0]} occurs twice, expected once with all its values")
    return [expand("ablate", Suite(rows=[group]), config, overrides, key)]


def _plan(measuring: Measuring, tables: Sequence[Table]) -> Result:
    from stages.ablate.plan import plan, plan_table, to_json

    works = plan(measuring, [combination for table in tables for combination in table.combinations])
    print_table(f"{measuring.manifest.name}: what {', '.join(t.title for t in tables)} needs", *plan_table(works))
    return Result({"stage": "ablate", "plan": to_json(works)})


def _measure(measuring: Measuring, table: Table, folder: Path, out: Path | None, *, suites: bool) -> list[Row]:
    """Measures a table, writes it after every row, and prints it."""
    from pipeline.data.results import save_results
    from stages.ablate.suite import read_literature
    from stages.ablate.tables import ensemble_table, literature_table, student_table, to_results, write_csv

    data, literature = measuring.manifest, read_literature(measuring.manifest.name) if suites else []
    files = [folder / "suites" / table.title / "results.json"] if suites else []
    files += [out] if out is not None and out.suffix == ".json" else []

    def write(rows: Sequence[Row]) -> None:
        for path in files:
            results = to_results(
                table.title,
                rows,
                table.columns,
                data,
                splits=measuring.splits,
                description=table.suite.description,
                literature=literature,
                settings_folder=folder / "settings",
            )
            save_results(path, results)

    records = data.select(measuring.splits)
    echo(f"{data.name}: {table.title}: {len(table.combinations)} rows, {len(records)} panoramas")
    rows = measuring.rows(table.combinations, write)
    title = f"{data.name}, {len(records)} panoramas; percent, L_CC and residual in nats"
    print_table(title, *ensemble_table(rows, table.columns))
    if any(row.seed is not None for row in rows):
        print_table("students; ± standard deviation over seeds", *student_table(rows, table.columns))
    if literature:
        print_table("published", *literature_table(literature))
    if out is not None and out.suffix == ".csv":
        write_csv(out, rows)
        files.append(out)
    for path in files:
        echo(f"table: {path}")
    if suites:
        echo_hint(f"report {files[0]}")
    return rows


def _draw_sheets(data: Manifest, rows: Sequence[Row], folder: Path, splits: Sequence[str]) -> None:
    from pipeline.data.visualization import save_picture
    from stages.ablate.sheets import draw_sheet

    for record in data.select(splits):
        if not all(record.id in row.failures for row in rows):
            save_picture(draw_sheet(data, rows, record), folder / f"{record.id}.jpg", quality=92, subsampling=0)
    echo(f"pictures: {folder}")


def _result(tables: Sequence[Table], measured: Sequence[Sequence[Row]], panoramas: int, failed: int) -> Result:
    from stages.ablate.tables import to_json

    computed: Counter[str] = Counter()
    for rows in measured:
        for row in rows:
            computed.update(row.computed)
    figures: dict[str, Any] = {"stage": "ablate", "panoramas": panoramas, "failed": failed}
    figures["computed"] = {kind: computed[kind] for kind in sorted(computed)}
    figures["rows"] = [
        ({"suite": table.title} if len(tables) > 1 else {}) | to_json(row)
        for table, rows in zip(tables, measured, strict=True)
        for row in rows
    ]
    return Result(figures, failed=bool(failed))
