"""Compares what benchmarks measure with what they measured before: a regression beyond noise is told by name.

`book.json` holds, for each figure that means the same on every machine (a ratio to a reference or to a floor that is
measured in the same run, a count, a share), the values of earlier runs and which direction is better. The limit is the
worst of them, and beyond it as much again as they differ, but at least `MARGIN`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError

BOOK = Path(__file__).parent / "book.json"

#: Smallest relative distance from the worst value so far that counts as noise; a figure that is no time has its own.
MARGIN = 0.15


@dataclass(frozen=True)
class Figure:
    """One line of the book."""

    benchmark: str
    name: str
    better: str
    """`lower` or `higher`."""
    measured: tuple[float, ...]
    meaning: str
    margin: float = MARGIN

    @property
    def limit(self) -> float:
        """The worst value that passes; any does where nothing was measured yet."""
        if not self.measured:
            return math.inf if self.better == "lower" else -math.inf
        low, high = min(self.measured), max(self.measured)
        slack = max(high - low, self.margin * abs(high if self.better == "lower" else low))
        return high + slack if self.better == "lower" else low - slack

    def passes(self, value: float) -> bool:
        return value <= self.limit if self.better == "lower" else value >= self.limit


def read_book(path: Path | None = None) -> list[Figure]:
    """Every figure of the book."""
    document = json.loads((path or BOOK).read_text(encoding="utf-8"))
    return [
        Figure(benchmark, name, **{**line, "measured": tuple(line["measured"])})
        for benchmark, lines in document.items()
        for name, line in lines.items()
    ]


def checked_benchmarks(path: Path | None = None) -> list[str]:
    """The benchmarks that have a figure in the book."""
    return list(dict.fromkeys(figure.benchmark for figure in read_book(path)))


def compare(benchmark: str, figures: dict[str, Any], path: Path | None = None) -> tuple[list[list[Any]], list[str]]:
    """A row for each figure of the book that the benchmark has, and a sentence for each that is worse than its limit.

    Raises `UserError` if the benchmark did not measure a figure of the book.
    """
    rows, regressions = [], []
    for figure in (figure for figure in read_book(path) if figure.benchmark == benchmark):
        if figure.name not in figures:
            raise UserError(f"{path or BOOK}: {benchmark}.{figure.name}: was not measured; found {', '.join(figures)}")
        value = float(figures[figure.name])
        first = f"{figure.measured[0]:g}" if figure.measured else "-"
        rows.append([f"{benchmark}.{figure.name}", f"{value:g}", first, f"{figure.limit:.4g}"])
        if not figure.passes(value):
            worse = "most" if figure.better == "lower" else "least"
            regressions.append(f"{benchmark}.{figure.name}: found {value:g}, expected at {worse} {figure.limit:.4g}")
    return rows, regressions


def record(benchmark: str, figures: dict[str, Any], path: Path | None = None) -> None:
    """Adds a run's values to the book."""
    path = path or BOOK
    document = json.loads(path.read_text(encoding="utf-8"))
    for name, line in document.get(benchmark, {}).items():
        line["measured"] = [*line["measured"], float(figures[name])]
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
