"""Compares the figures of benchmarks with those of earlier runs, and names every regression beyond noise.

`book.json` holds the values of earlier runs, and the better direction, of each figure that means the same on every
machine: a ratio to a reference or a floor measured in the same run, a count, a share. The limit is the worst value, and
beyond it the range of the values, but at least `MARGIN`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.atomic_files import write_text
from pipeline.core.errors import UserError

BOOK = Path(__file__).parent / "book.json"

#: Noise relative to the worst value; a figure other than a time has its own.
MARGIN = 0.15


@dataclass(frozen=True)
class Figure:
    """One line of the book.

    Attributes:
        benchmark: name of the benchmark.
        name: name of the figure.
        better: `lower` or `higher`.
        measured: values of earlier runs.
        meaning: description, for readers of the book.
        margin: noise relative to the worst value.
    """

    benchmark: str
    name: str
    better: str
    measured: tuple[float, ...]
    meaning: str
    margin: float = MARGIN

    @property
    def limit(self) -> float:
        """The worst value that passes; infinite without earlier values."""
        if not self.measured:
            return math.inf if self.better == "lower" else -math.inf
        low, high = min(self.measured), max(self.measured)
        slack = max(high - low, self.margin * abs(high if self.better == "lower" else low))
        return high + slack if self.better == "lower" else low - slack

    def passes(self, value: float) -> bool:
        """Returns whether `value` is within the limit."""
        return value <= self.limit if self.better == "lower" else value >= self.limit


def read_book(path: Path | None = None) -> list[Figure]:
    """Returns every figure of the book."""
    document = json.loads((path or BOOK).read_text(encoding="utf-8"))
    return [
        Figure(benchmark, name, **{**line, "measured": tuple(line["measured"])})
        for benchmark, lines in document.items()
        for name, line in lines.items()
    ]


def checked_benchmarks(path: Path | None = None) -> list[str]:
    """Returns the benchmarks with figures in the book."""
    return list(dict.fromkeys(figure.benchmark for figure in read_book(path)))


def compare(benchmark: str, figures: dict[str, Any], path: Path | None = None) -> tuple[list[list[Any]], list[str]]:
    """Compares a benchmark's figures with the book.

    Returns:
        A row for each figure of the book: name, value, first value, limit; and a message for each regression.

    Raises:
        UserError: a figure of the book is missing.
    """
    rows, regressions = [], []
    for figure in (figure for figure in read_book(path) if figure.benchmark == benchmark):
        if figure.name not in figures:
            raise UserError(f"{path or BOOK}: {benchmark}.{figure.name}: is missing; found {', '.join(figures)}")
        value = float(figures[figure.name])
        first = f"{figure.measured[0]:g}" if figure.measured else "-"
        rows.append([f"{benchmark}.{figure.name}", f"{value:g}", first, f"{figure.limit:.4g}"])
        if not figure.passes(value):
            worse = "most" if figure.better == "lower" else "least"
            regressions.append(f"{benchmark}.{figure.name}: found {value:g}, expected at {worse} {figure.limit:.4g}")
    return rows, regressions


def record(benchmark: str, figures: dict[str, Any], path: Path | None = None) -> None:
    """Adds the values of a run to the book."""
    path = path or BOOK
    document = json.loads(path.read_text(encoding="utf-8"))
    for name, line in document.get(benchmark, {}).items():
        line["measured"] = [*line["measured"], float(figures[name])]
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
