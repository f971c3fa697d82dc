"""Pieces of the Markdown of model cards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import fill

WIDTH = 120
"""Columns of a line of text."""


def paragraph(text: str) -> str:
    """Text, wrapped; runs of white space count as one space."""
    return fill(" ".join(text.split()), WIDTH)


def bullets(items: Iterable[str]) -> str:
    """A list, wrapped likewise."""
    return "\n".join(fill(" ".join(item.split()), WIDTH, initial_indent="- ", subsequent_indent="  ") for item in items)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are text."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
