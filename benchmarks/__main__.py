"""Command line of the benchmarks: `python -m benchmarks --only NAME`.

A benchmark is a module of this package, listed in `BENCHMARKS`, with a function `run() -> dict` that prints a
table and returns its figures. The last line printed is one line of JSON that holds the figures of all that ran.
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

#: Name and what it compares.
BENCHMARKS = {
    "cache": "bytes of a panorama in the cache, and the time to read its masks and logits",
    "generator": "our mask generator with segment_anything's: time, memory, agreement",
    "deploy": "a student on the CPU, 400 x 2048: onnxruntime with torch",
    "loader": "the training loader from the cache: alone; the step with it, with tensors in memory, with SAM inside",
    "student": "what the student learns from: labels of the TA and of every rule, MKA's terms, ground truth",
    "workers": "two workers with one on the passes that take a model; host cores that a GPU's worker needs",
    "rerun": "a finished cache of 2,000 (synthetic) images, run again",
    "scale": "100,000 panoramas run again, files and bytes of one, flipped bits, memory and rate over many",
    "sphere": "the TA on full spheres, by latitude: whole panorama, windows, perspective views",
    "seam": "lifted masks of rolled panoramas; objects on the seam, on window edges and in the middle",
    "roll": "pseudo-labels of rolled panoramas, by every rule: by the distance of windows and by other amounts",
    "fuse": "the vote with a loop over masks; all of DAR with reading its inputs and writing its outputs alone",
    "pseudo_labels": "pseudo-labels of every fusion rule on the demo's test split, by source of masks",
    "sensitivity": "pseudo-labels by settings of the rules, and by width and stride of the windows",
}


def run_benchmarks(names: list[str]) -> dict[str, Any]:
    """Runs the named benchmarks, all if none is named; the figures of each. Raises `UserError`."""
    if unknown := [name for name in names if name not in BENCHMARKS]:
        raise UserError(f"--only: found {unknown[0]!r}, expected one of {', '.join(BENCHMARKS)}")
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
        bool, typer.Option("--check", help="Compare with the book; exit status 1 where a figure became worse.")
    ] = False,
    record: Annotated[bool, typer.Option("--record", help="Add what is measured to the book.")] = False,
) -> None:
    """Measures, prints a table, and ends with one line of JSON.

    Without --only all benchmarks are run; with --check or --record those that the book has (docs/performance.md).
    """
    if not check and not record:
        print_json(run_benchmarks(only or []))
        return
    names = only or checked_benchmarks()
    rows: list[list[Any]] = []
    regressions: list[str] = []
    for name in names:
        figures = run_benchmarks([name])
        found, worse = compare(name, figures)
        rows += found
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
    """A `UserError` becomes one sentence on stderr and exit status 2."""
    try:
        typer.run(command)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
