"""Command line of the benchmarks: `python -m benchmarks --only NAME`.

A benchmark is a module of this package, listed in `BENCHMARKS`, with a function `run() -> dict` that prints a
table and returns its figures. The last printed line is JSON with the figures of all benchmarks that ran.
"""

from __future__ import annotations

import importlib
import sys
from typing import Annotated, Any

import typer

from benchmarks.check import checked_benchmarks, compare
from benchmarks.check import record as add_to_book
from pipeline.core.cli import echo, print_json, print_table
from pipeline.core.errors import UserError

#: Name and subject.
BENCHMARKS = {
    "cache": "bytes per panorama in the cache, and the time to read its masks and logits",
    "generator": "our mask generator and segment_anything's: time, memory, agreement",
    "deploy": "a student on the CPU, 400 x 2048: onnxruntime and torch",
    "real_teacher": "the TA on the CPU with and without subnormal weights",
    "loader": "the training loader alone; the training step with it, with tensors in memory, with SAM inside",
    "student": "students trained on labels of the TA and of every rule, without MKA's terms, and on ground truth",
    "adaptation": "adaptation of the TA to a large and a small domain gap, round by round, and its students",
    "window_edges": "how often labels change at the edges of windows, by rule; on real panoramas",
    "workers": "two workers and one on the passes with a model; host cores per GPU worker",
    "rerun": "rerun over a finished cache of 2,000 (synthetic) images",
    "scale": "rerun over 100,000 panoramas, files and bytes per panorama, flipped bits, memory and rate over time",
    "sphere": "the TA on full spheres by latitude: whole panorama, windows, perspective views",
    "seam": "merged masks of rolled panoramas; objects at the seam, at window edges and elsewhere",
    "roll": "pseudo-labels of panoramas rolled by the window stride and by other amounts, by rule",
    "fuse": "the vote and a loop over masks; all of DAR, and reading its inputs and writing its outputs alone",
    "pseudo_labels": "pseudo-labels of every fusion rule on the demo's test split, by mask source",
    "sensitivity": "pseudo-labels by settings of the rules, and by width and stride of the windows",
}


def run_benchmarks(names: list[str]) -> dict[str, Any]:
    """Runs the named benchmarks, or all, and returns their figures.

    Raises:
        UserError: an unknown name, or a benchmark failed.
    """
    if unknown := [name for name in names if name not in BENCHMARKS]:
        raise UserError(f"--only: found {unknown[0]!r}; expected one of {', '.join(BENCHMARKS)}")
    figures: dict[str, Any] = {}
    for name in names or BENCHMARKS:
        echo(f"{name}: {BENCHMARKS[name]}")
        figures |= {"benchmark": name, **importlib.import_module(f"benchmarks.{name}").run()}
    return figures


def command(
    only: Annotated[
        list[str] | None, typer.Option("--only", help=f"One of {', '.join(BENCHMARKS)}. Repeatable. Default: all.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with the book; exit status 1 if a figure is worse.")
    ] = False,
    record: Annotated[bool, typer.Option("--record", help="Add the figures to the book.")] = False,
) -> None:
    """Run benchmarks, print their tables, and end with one line of JSON.

    Without --only, all benchmarks run; with --check or --record, those in the book (docs/performance.md).
    """
    if not check and not record:
        print_json(run_benchmarks(only or []))
        return
    names = only or checked_benchmarks()
    rows: list[list[Any]] = []
    regressions: list[str] = []
    for name in names:
        figures = run_benchmarks([name])
        compared_rows, worse = compare(name, figures)
        rows += compared_rows
        regressions += worse
        if record:
            add_to_book(name, figures)
    print_table("compared with the book", ["figure", "now", "first in the book", "limit"], rows)
    for sentence in regressions:
        echo(f"worse: {sentence}")
    print_json({"checked": len(rows), "worse": len(regressions), **{str(row[0]): float(row[1]) for row in rows}})
    if check and regressions:
        raise typer.Exit(1)


def main() -> None:
    """Runs the command; prints a `UserError` on stderr and exits with status 2."""
    try:
        typer.run(command)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
